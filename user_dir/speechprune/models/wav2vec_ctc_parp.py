"""`wav2vec_ctc_parp`: prune while finetuning, by PARP or another policy that trains weights."""

from fairseq.models import register_model

from speechprune.models.config import PrunedConfig
from speechprune.models.ctc import Ctc
from speechprune.models.names import PARP, POLICY, ROUTER
from speechprune.models.parp import Parp


@register_model(PARP, dataclass=PrunedConfig)
class Wav2VecCtcParp(Parp, Ctc):
    """`wav2vec_ctc_policy` with all weights trained."""

    for_frozen_weights = (
        f"for S3-Router use model._name={ROUTER}, for other policies model._name={POLICY}"
    )
