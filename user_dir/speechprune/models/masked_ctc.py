"""What every CTC model with masks shares: masks follow fairseq's loop, flags free what is frozen,
and checkpoints of several kinds load."""

import logging
from typing import Any, Dict, List, Tuple

import torch
from fairseq.logging import metrics
from torch import nn

from speechprune.backbones import LAYER_ROLES, OTHER_ROLES
from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import fixed_densities
from speechprune.masking.sites import Site
from speechprune.models.config import CtcConfig
from speechprune.models.ctc import Ctc
from speechprune.models.mask_flags import masked_roles
from speechprune.models.sites import head_site, output_layer_of
from speechprune.state_names import is_of_masks, keys_of_mask

logger = logging.getLogger(__name__)

#: Masks made elsewhere keep about the share that they were asked to.
DENSITY_TOLERANCE = 0.01


class MaskedCtc(Ctc):
    """`Ctc` with a :class:`MaskController` as ``mask_controller``.

    `set_num_updates`, `train` and `eval` reach the controller through fairseq and PyTorch.
    """

    has_masks = True
    mask_controller: MaskController

    def __init__(self, cfg: CtcConfig, w2v_encoder: nn.Module) -> None:
        super().__init__(cfg, w2v_encoder)
        #: Whether the checkpoint that comes next is to give its masks alone. A run that goes on,
        #: and a model built from its own checkpoint, take all of it.
        self.takes_masks_only = False

    def mask_sites(self) -> List[Site]:
        """The tensors that the flags put a mask on, the CTC head last."""
        roles = masked_roles(self.cfg)
        sites = self.family.sites(self.backbone, roles)
        return [*sites, head_site(self)] if "head" in roles else sites

    def unmasked_weights(self) -> List[nn.Parameter]:
        """The encoder's weights that could have a mask and do not."""
        masked = {site.name for site in self.mask_sites()}
        sites = self.family.sites(self.backbone, LAYER_ROLES + OTHER_ROLES)
        return [getattr(s.module, s.tensor) for s in sites if s.name not in masked]

    def free_parameters(self, unmasked: List[nn.Parameter]) -> None:
        """Of a model that is frozen, unfreeze what the flags name, and the embedding of masked
        spans.

        Args:
            unmasked: as `unmasked_weights` gave them before masks were put on.
        """
        cfg = self.cfg
        freed = self.family.parameters(self.backbone, "mask_emb")
        for flag, group in (
            (cfg.trainable_bias, "bias"),
            (cfg.trainable_layer_norm, "layer_norm"),
            (cfg.trainable_pos, "pos"),
            (cfg.trainable_post_extract_proj, "front.proj"),
        ):
            if flag:
                freed += self.family.parameters(self.backbone, group)
        if cfg.trainable_proj:
            freed += list(output_layer_of(self).parameters())
        if cfg.trainable_if_unpruned:
            freed += unmasked
        for parameter in freed:
            parameter.requires_grad_(True)

    def let_gradients_through(self) -> None:
        """Let frozen layers have a backward pass, which masks of frozen weights learn from."""
        if self.cfg.checkpoint_activations:
            for layer in self.family.layers(self.backbone):
                layer.register_forward_pre_hook(_require_gradient)

    def warn_of_frozen_head(self) -> None:
        """Warn of a head that begins at random and will never learn."""
        head_is_random = self.cfg.load_mask_only or not self.cfg.finetune_from_model
        if head_is_random and not self.cfg.trainable_proj:
            logger.warning(
                "model.trainable_proj=false freezes a randomly initialised CTC head: it will never "
                "learn; most runs want model.trainable_proj=true"
            )

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
            for key in keys_of_mask(site.name):
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
        own = {key for site in self.mask_controller.sites for key in keys_of_mask(site.name)}
        foreign = [key for key in state if key not in own and is_of_masks(key)]
        if foreign:
            logger.warning(f"ignoring {len(foreign)} masks of tensors that have no mask here")
        return {key: value for key, value in state.items() if key not in foreign}

    def fold(self) -> None:
        """Bake the masks in: the state dict is then one of a plain `wav2vec_ctc`."""
        self.mask_controller.fold()


def _require_gradient(layer: nn.Module, args: Tuple[Any, ...]) -> Tuple[Any, ...]:
    """Make a layer's input part of the backward pass.

    fairseq recomputes a layer there only if its input requires gradient. With everything before it
    frozen the input does not, and the scores would silently get no gradient at all. Every layer
    needs this, since layerdrop may skip the first.
    """
    states = args[0]
    if torch.is_grad_enabled() and not states.requires_grad:
        states = states.detach().requires_grad_()
    return (states, *args[1:])
