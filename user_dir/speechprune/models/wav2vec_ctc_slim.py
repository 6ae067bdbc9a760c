"""`wav2vec_ctc_slim`: finetune all weights while heads and channels are removed."""

from fairseq.models import register_model

from speechprune.models.config import PrunedConfig
from speechprune.models.ctc import Ctc
from speechprune.models.names import SLIM
from speechprune.models.slim import Slim


@register_model(SLIM, dataclass=PrunedConfig)
class Wav2VecCtcSlim(Slim, Ctc):
    """Removes heads and channels for good, more and more of them; all weights train."""
