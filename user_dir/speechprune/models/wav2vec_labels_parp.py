"""`wav2vec_labels_parp`: prune while finetuning for labels of utterances, by PARP or another
policy that trains weights."""

from fairseq.models import register_model

from speechprune.models.config import PrunedConfig
from speechprune.models.labels import Labels
from speechprune.models.names import LABELS_PARP, LABELS_ROUTER
from speechprune.models.parp import Parp


@register_model(LABELS_PARP, dataclass=PrunedConfig)
class Wav2VecLabelsParp(Parp, Labels):
    """`wav2vec_ctc_parp` with labels of whole utterances as outputs."""

    for_frozen_weights = f"for S3-Router use model._name={LABELS_ROUTER}"
