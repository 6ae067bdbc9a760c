"""`wav2vec_ctc_st`: finetune the connections of a speech model for CTC (S3-Router)."""

from fairseq.models import register_model

from speechprune.models.config import FinetunedConfig
from speechprune.models.ctc import Ctc
from speechprune.models.names import ROUTER
from speechprune.models.router import Router


@register_model(ROUTER, dataclass=FinetunedConfig)
class Wav2VecCtcSt(Router, Ctc):
    """Learns which connections to keep; the weights stay as pretrained unless a flag frees them."""
