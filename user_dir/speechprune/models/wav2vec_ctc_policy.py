"""`wav2vec_ctc_policy`: finetune under masks that any policy chooses, weights trained or frozen."""

from fairseq.models import register_model

from speechprune.models.config import PrunedConfig
from speechprune.models.ctc import Ctc
from speechprune.models.names import POLICY
from speechprune.models.policy_pruning import PolicyPruning


@register_model(POLICY, dataclass=PrunedConfig)
class Wav2VecCtcPolicy(PolicyPruning, Ctc):
    """Removes the share ``model.sparsity``; ``model.policy`` chooses what stays."""
