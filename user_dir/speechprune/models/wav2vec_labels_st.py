"""`wav2vec_labels_st`: learn which connections to keep for labels of utterances (S3-Router)."""

from fairseq.models import register_model

from speechprune.models.config import FinetunedConfig
from speechprune.models.labels import Labels
from speechprune.models.names import LABELS_ROUTER
from speechprune.models.router import Router


@register_model(LABELS_ROUTER, dataclass=FinetunedConfig)
class Wav2VecLabelsSt(Router, Labels):
    """`wav2vec_ctc_st` with labels of whole utterances as outputs."""
