"""`wav2vec_ctc_parp`: prune while finetuning, by PARP or another policy that trains weights."""

from fairseq.models import register_model

from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.policies import POLICIES
from speechprune.models.masked_ctc import DENSITY_TOLERANCE
from speechprune.models.pruned_ctc import PrunedCtc, PrunedCtcConfig
from speechprune.models.pruning_settings import (
    SCOPES,
    check_pruning,
    schedule_of,
    start_of,
)
from speechprune.models.settings import is_first_launch


@register_model("wav2vec_ctc_parp", dataclass=PrunedCtcConfig)
class Wav2VecCtcParp(PrunedCtc):
    """Removes the share ``model.sparsity``; which weights stay is decided anew every so often.

    Source: Lai et al., NeurIPS 2021 (arXiv 2106.05933), for ``model.policy=parp``.
    """

    @classmethod
    def check_settings(cls, cfg: PrunedCtcConfig) -> None:
        super().check_settings(cfg)
        check_pruning(cfg)

    def prepare(self, from_pretrained: bool) -> None:
        cfg = self.cfg
        self.mask_controller = MaskController(
            self.mask_sites(),
            POLICIES.build(cfg.policy),
            schedule_of(cfg),
            scope=SCOPES[cfg.prune_scope],
            every=cfg.prune_every,
            begin=cfg.freeze_finetune_updates,
            seed=cfg.seed,
            initialise=from_pretrained,
        )
        if from_pretrained and is_first_launch(cfg):
            self.begin()
            self._refuse_other_start()

    def _refuse_other_start(self) -> None:
        if self.given_masks is None:
            return
        removed, claimed = 1.0 - self.given_masks.density, start_of(self.cfg)
        if abs(removed - claimed) > DENSITY_TOLERANCE:
            raise UserError(
                f"{self.cfg.mask_file} removes {removed:.4g}, but the run starts at the sparsity "
                f"{claimed:.4g}; set model.sparsity={removed:.4g}, or model.start_sparsity"
            )
