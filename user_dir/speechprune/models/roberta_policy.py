"""`roberta_policy`: finetune an encoder of text under masks that any policy chooses, weights
trained or frozen."""

from fairseq.models import register_model

from speechprune.models.names import ROBERTA_POLICY
from speechprune.models.policy_pruning import PolicyPruning
from speechprune.models.sentences import OF_SPEECH, Sentences
from speechprune.models.text_config import PrunedTextConfig


@register_model(ROBERTA_POLICY, dataclass=PrunedTextConfig)
class RobertaPolicy(PolicyPruning, Sentences):
    """`wav2vec_ctc_policy` for sentences."""

    reads = PolicyPruning.reads - OF_SPEECH
