"""`wav2vec_ctc_pruned`: finetune what is left of a model after dropping layers."""

from fairseq.models import register_model

from speechprune.models.config import FinetunedConfig
from speechprune.models.ctc import Ctc
from speechprune.models.finetuned import Finetuned
from speechprune.models.names import PRUNED


@register_model(PRUNED, dataclass=FinetunedConfig)
class Wav2VecCtcPruned(Finetuned, Ctc):
    """Trains all weights, without masks, as `wav2vec_ctc` does."""
