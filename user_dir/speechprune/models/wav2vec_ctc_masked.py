"""`wav2vec_ctc_masked`: finetune the weights that a given mask keeps."""

from fairseq.models import register_model

from speechprune.models.config import PrunedConfig
from speechprune.models.ctc import Ctc
from speechprune.models.fixed_mask import FixedMask
from speechprune.models.names import FIXED_MASK


@register_model(FIXED_MASK, dataclass=PrunedConfig)
class Wav2VecCtcMasked(FixedMask, Ctc):
    """The masks are those of ``model.mask_file`` from the first update to the last."""
