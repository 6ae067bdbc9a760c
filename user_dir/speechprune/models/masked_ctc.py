"""What every CTC model with masks shares: masks follow fairseq's loop, and checkpoints of several
kinds load."""

import logging
from typing import Any, Dict, List

from fairseq.logging import metrics
from torch import nn

from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import fixed_densities
from speechprune.masking.masked_weight import mask_key, regrown_key, scores_key
from speechprune.masking.sites import Site
from speechprune.models.ctc import Ctc
from speechprune.models.settings import MaskedCtcConfig, masked_roles

logger = logging.getLogger(__name__)

#: Masks made elsewhere keep about the share that they were asked to.
DENSITY_TOLERANCE = 0.01


class MaskedCtc(Ctc):
    """`Ctc` with a :class:`MaskController` as ``mask_controller``.

    `set_num_updates`, `train` and `eval` reach the controller through fairseq and PyTorch.
    """

    mask_controller: MaskController

    def __init__(self, cfg: MaskedCtcConfig, w2v_encoder: nn.Module) -> None:
        super().__init__(cfg, w2v_encoder)
        #: Whether the checkpoint that comes next is to give its masks alone. A run that goes on,
        #: and a model built from its own checkpoint, take all of it.
        self.takes_masks_only = False

    def mask_sites(self) -> List[Site]:
        """The tensors that the flags put a mask on, the CTC head last."""
        roles = masked_roles(self.cfg)
        sites = self.family.sites(self.backbone, roles)
        if "head" in roles:
            sites.append(Site("proj.weight", "head", None, self.w2v_encoder.proj, "weight"))
        return sites

    def begin_update(self) -> None:
        if self.training:
            stats = self.mask_controller.stats()
            metrics.log_scalar("density", stats["density"], weight=0, priority=25, round=6)
            metrics.log_scalar("flipped", stats["flipped"], priority=26, round=1)

    def state_dict(self, *args: Any, **kwargs: Any) -> Dict[str, Any]:
        self.mask_controller.settle()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load ours, S3-Router's or a plain `wav2vec_ctc` state dict.

        Raises:
            UserError: load_mask_only is set and the checkpoint holds no mask that fits; or it holds
                masks that the flags fix at another density than they claim.
        """
        state = self.without_layers(state_dict)
        if self.takes_masks_only:
            state = self._with_masks_of(state)
            self.takes_masks_only = False
        state = self._without_foreign_masks(state)
        result = super().load_state_dict(state, *args, **kwargs)
        self.mask_controller.loaded()
        self._refuse_other_density()
        return result

    def _refuse_other_density(self) -> None:
        """The network that is trained and saved must be the one that the flags claim."""
        kept, claimed = fixed_densities(self.mask_controller.sites, self.mask_controller.schedule)
        if abs(kept - claimed) > DENSITY_TOLERANCE:
            raise UserError(
                f"the checkpoint's masks keep {kept:.4g} and are fixed, but the flags say "
                f"{claimed:.4g}; set model.prune_rate={kept:.4g}, or leave out model.fix_mask"
            )

    def _with_masks_of(self, state: Dict[str, Any]) -> Dict[str, Any]:
        """This model's own state with only the masks of the chosen layers taken from ``state``."""
        own = super().state_dict()
        before = self.cfg.load_mask_before
        taken = 0
        for site in self.mask_controller.sites:
            if before is not None and (site.layer is None or site.layer >= before):
                continue
            for key in _mask_keys(site):
                own.pop(key, None)
                if key in state:
                    own[key] = state[key]
                    taken += 1
        if not taken:
            raise UserError(
                f"model.load_mask_only=true, but {self.cfg.finetune_from_model} holds no mask for "
                "this model"
            )
        return own

    def _without_foreign_masks(self, state: Dict[str, Any]) -> Dict[str, Any]:
        """``state`` less the scores and masks of tensors that have none here.

        S3-Router saves scores for every projection, masked or not.
        """
        own = {key for site in self.mask_controller.sites for key in _mask_keys(site)}
        foreign = [
            key for key in state if key not in own and key.endswith(("scores", "_mask", "_regrown"))
        ]
        if foreign:
            logger.warning(f"ignoring {len(foreign)} masks of tensors that have no mask here")
        return {key: value for key, value in state.items() if key not in foreign}

    def fold(self) -> None:
        """Bake the masks in: the state dict is then one of a plain `wav2vec_ctc`."""
        self.mask_controller.fold()


def _mask_keys(site: Site) -> List[str]:
    """State dict keys of what belongs to a site's mask."""
    prefix = "w2v_encoder." if site.role == "head" else "w2v_encoder.w2v_model."
    owner = prefix + site.name[: -len(site.tensor)]
    return [owner + key(site.tensor) for key in (scores_key, mask_key, regrown_key)]
