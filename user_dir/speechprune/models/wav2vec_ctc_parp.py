"""`wav2vec_ctc_parp`: prune while finetuning, by PARP or another policy that trains weights."""

from typing import Any

from fairseq.models import register_model

from speechprune.errors import UserError
from speechprune.models.config import PrunedCtcConfig
from speechprune.models.declaration import LAYER_FLAGS, PRUNING_FLAGS
from speechprune.models.mask_flags import SITE_FLAGS
from speechprune.models.names import PARP, POLICY, ROUTER
from speechprune.models.pruning_flags import policy_of
from speechprune.models.wav2vec_ctc_policy import Wav2VecCtcPolicy


@register_model(PARP, dataclass=PrunedCtcConfig)
class Wav2VecCtcParp(Wav2VecCtcPolicy):
    """`wav2vec_ctc_policy` with all weights trained.

    Source: Lai et al., NeurIPS 2021 (arXiv 2106.05933), for ``model.policy=parp``.
    """

    reads = LAYER_FLAGS | (PRUNING_FLAGS - {"train_weights"}) | {*SITE_FLAGS, "eval_only"}

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        super().check_settings(cfg)
        if not policy_of(cfg).trains_weights:
            raise UserError(
                f"model.policy={cfg.policy} does not train weights; for S3-Router use "
                f"model._name={ROUTER}, for other policies model._name={POLICY}"
            )

    @property
    def trains_weights(self) -> bool:
        return True
