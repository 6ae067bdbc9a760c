"""`wav2vec_ctc_pruned`: finetune what is left of a model after dropping layers."""

from fairseq.models import register_model

from speechprune.models.ctc import Ctc
from speechprune.models.settings import MaskedCtcConfig


@register_model("wav2vec_ctc_pruned", dataclass=MaskedCtcConfig)
class Wav2VecCtcPruned(Ctc):
    """Trains all weights, without masks, as `wav2vec_ctc` does."""
