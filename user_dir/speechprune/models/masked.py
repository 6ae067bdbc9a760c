"""What every model with masks shares: masks follow fairseq's loop, flags free what is frozen,
and checkpoints of several kinds load."""

import logging
from typing import Any, Dict, List, Mapping, Set

from fairseq.logging import metrics
from torch import nn

from speechprune.backbones import LAYER_ROLES
from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import fixed_densities
from speechprune.masking.recomputation import require_gradient
from speechprune.masking.sites import Site
from speechprune.models.config import FinetunedConfig
from speechprune.models.finetuned import Finetuned
from speechprune.models.mask_flags import masked_roles, trains_head
from speechprune.models.older_masks import masked_after_norm
from speechprune.models.sites import head_sites, output_layer_of
from speechprune.state_names import (
    is_of_masks,
    key_of,
    keys_of_mask,
    mask_key,
    scores_key,
    sibling,
)

logger = logging.getLogger(__name__)

#: Masks made elsewhere keep about the share that they were asked to.
DENSITY_TOLERANCE = 0.01


class Masked(Finetuned):
    """`Finetuned` with a :class:`MaskController` as ``mask_controller``.

    `set_num_updates`, `train` and `eval` reach the controller through fairseq and PyTorch.
    """

    has_masks = True
    needs_folding = True
    mask_controller: MaskController

    def __init__(self, cfg: FinetunedConfig, encoder: nn.Module) -> None:
        super().__init__(cfg, encoder)
        #: Whether the checkpoint that comes next is to give its masks alone. A run that goes on,
        #: and a model built from its own checkpoint, take all of it.
        self.takes_masks_only = False

    def mask_sites(self) -> List[Site]:
        """The tensors that the flags put a mask on, the head last."""
        roles = masked_roles(self.cfg)
        sites = self.family.sites(self.backbone, roles)
        return [*sites, *head_sites(self)] if "head" in roles else sites

    def free_parameters(self) -> None:
        """Of a model that is frozen and has its masks on, unfreeze what the flags name, and the
        embedding of masked spans.

        As in S3-Router, nothing but `trainable_bias` frees anything of a module that has a mask, or
        is one of a layer's projections, which flags may keep whole.
        """
        freed = self.family.parameters(self.backbone, "mask_emb")
        fixed = self._parameters_of_masked_modules()
        for flag, parameters in self._trainable_groups().items():
            if getattr(self.cfg, flag):
                freed += [parameter for parameter in parameters if id(parameter) not in fixed]
        if self.cfg.trainable_bias:
            freed += [p for name, p in self.named_parameters() if name.endswith(".bias")]
        for parameter in freed:
            parameter.requires_grad_(True)

    def _trainable_groups(self) -> Dict[str, List[nn.Parameter]]:
        """What each flag frees, but for what has a mask."""
        family, encoder = self.family, self.backbone
        return {
            "trainable_layer_norm": family.parameters(encoder, "layer_norm"),
            "trainable_pos": family.parameters(encoder, "pos"),
            "trainable_post_extract_proj": family.parameters(encoder, "front.proj"),
            "trainable_proj": list(output_layer_of(self).parameters()),
            "trainable_if_unpruned": list(self.parameters()),
        }

    def _parameters_of_masked_modules(self) -> Set[int]:
        """The identities of what belongs to modules with masks, and to the layers' projections."""
        sites = [*self.family.sites(self.backbone, LAYER_ROLES), *self.mask_sites()]
        return {id(parameter) for site in sites for parameter in site.module.parameters()}

    def warn_of_flags_without_effect(self) -> None:
        """Warn of flags that name only what has a mask."""
        fixed = self._parameters_of_masked_modules()
        for flag, parameters in self._trainable_groups().items():
            if getattr(self.cfg, flag) and all(id(parameter) in fixed for parameter in parameters):
                logger.warning(
                    f"model.{flag}=true frees nothing: what it names has a mask, which learns in "
                    "its place"
                )

    def let_gradients_through(self) -> None:
        """Let frozen layers have a backward pass, which masks of frozen weights learn from."""
        if self.cfg.checkpoint_activations:
            for layer in self.family.layers(self.backbone):
                layer.register_forward_pre_hook(require_gradient)

    def warn_of_frozen_head(self) -> None:
        """Warn of a head that begins at random and will never learn."""
        head_is_random = self.cfg.load_mask_only or not self.cfg.finetune_from_model
        if head_is_random and not trains_head(self.cfg):
            logger.warning(
                "model.trainable_proj=false freezes a randomly initialised head: it will never "
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
        """Load ours, S3-Router's or a plain state dict.

        Raises:
            UserError: a run begins with load_mask_only, and the checkpoint holds no mask that fits;
                or with masks that the flags fix at another density than they claim. Or the model is
                to be used as it was saved, and the checkpoint lacks a mask.
        """
        state = self.without_layers(state_dict)
        for site in self.mask_controller.sites:
            state = masked_after_norm(state, key_of(site.name))
        if self.awaits_own_checkpoint or self.cfg.eval_only:
            self._refuse_missing_masks(state)
        if self.takes_masks_only:
            state = self._with_masks_of(state)
            self.takes_masks_only = False
        state = self._without_foreign_masks(state)
        result = super().load_state_dict(state, *args, **kwargs)
        self.mask_controller.loaded()
        if not self.awaits_own_checkpoint:
            self._refuse_other_density()
        return result

    def _refuse_missing_masks(self, state: Mapping[str, Any]) -> None:
        """Masks made up here would be those of another network."""
        for site in self.mask_controller.sites:
            key = key_of(site.name)
            if sibling(key, mask_key) not in state and sibling(key, scores_key) not in state:
                raise UserError(
                    f"the checkpoint's settings put a mask on {site.name}, but it holds neither "
                    "that mask nor scores to choose it by; it is damaged, or of another model"
                )

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
            if before and (site.layer is None or site.layer >= before):
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
        """Bake the masks in: the state dict is then one of a plain model."""
        self.mask_controller.fold()
