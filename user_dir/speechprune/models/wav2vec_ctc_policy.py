"""`wav2vec_ctc_policy`: finetune under masks that any policy chooses, weights trained or frozen."""

from typing import Any, Mapping, Optional

from fairseq.models import register_model

from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.policies import POLICIES
from speechprune.models.config import PrunedCtcConfig
from speechprune.models.declaration import LAYER_FLAGS, PRUNING_FLAGS
from speechprune.models.mask_flags import SITE_FLAGS, TRAINABLE_FLAGS
from speechprune.models.masked_ctc import DENSITY_TOLERANCE
from speechprune.models.names import POLICY
from speechprune.models.pruned_ctc import PrunedCtc
from speechprune.models.pruning_flags import (
    SCOPES,
    check_pruning,
    end_of,
    policy_of,
    schedule_of,
    start_of,
    trains_weights,
)
from speechprune.models.restart import is_first_launch


@register_model(POLICY, dataclass=PrunedCtcConfig)
class Wav2VecCtcPolicy(PrunedCtc):
    """Removes the share ``model.sparsity``; ``model.policy`` chooses what stays, every so often.

    The masked weights train as the policy does, or as ``model.train_weights`` says. If they are
    frozen, all else is too but for what the `trainable_*` flags name.
    """

    reads = LAYER_FLAGS | PRUNING_FLAGS | {*SITE_FLAGS, *TRAINABLE_FLAGS, "eval_only"}

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        super().check_settings(cfg)
        check_pruning(cfg)

    @classmethod
    def label_of(cls, cfg: Mapping[str, Any]) -> str:
        if cfg["policy"] == "parp":
            start = cfg["start_sparsity"]
            return "PARP" if start is None or start >= cfg["sparsity"] else "PARP-P"
        frozen = ", weights frozen" if cfg.get("train_weights") is False else ""
        return f"{cfg['policy']}{frozen}"

    @classmethod
    def sparsity_of(cls, cfg: Mapping[str, Any]) -> Optional[float]:
        return float(cfg["sparsity"])

    @classmethod
    def sparse_from(cls, cfg: Any) -> int:
        return end_of(cfg) if start_of(cfg) < cfg.sparsity else 0

    @classmethod
    def prunes_biases_of(cls, cfg: Mapping[str, Any]) -> bool:
        return bool(POLICIES.get(cfg["policy"]).prunes_biases)

    @property
    def trains_weights(self) -> bool:
        """Whether the masked weights are trained, and all else with them."""
        return trains_weights(self.cfg)

    def prepare(self, from_pretrained: bool) -> None:
        """Put masks on, and freeze what does not train.

        Raises:
            UserError: flags that cannot work, or given masks that do not fit.
        """
        cfg = self.cfg
        sites = self.mask_sites()
        unmasked = self.unmasked_weights()
        if not self.trains_weights:
            self.requires_grad_(False)
        self.mask_controller = MaskController(
            sites,
            policy_of(cfg),
            schedule_of(cfg),
            scope=SCOPES[cfg.prune_scope],
            every=cfg.prune_every,
            begin=cfg.freeze_finetune_updates,
            seed=cfg.seed,
            initialise=from_pretrained,
            trains_weights=self.trains_weights,
        )
        if not self.trains_weights:
            self.free_parameters(unmasked)
            self.let_gradients_through()
        if not from_pretrained:
            return
        if not self.trains_weights:
            self.warn_of_frozen_head()
        if is_first_launch(cfg):
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
