"""`wav2vec_ctc_st`: finetune the connections of wav2vec 2.0 or data2vec for CTC (S3-Router)."""

import logging
from typing import Any, List, Tuple

import torch
from fairseq.models import register_model
from torch import nn

from speechprune.backbones import LAYER_ROLES
from speechprune.backbones.base import OTHER_ROLES
from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.policies import POLICIES
from speechprune.masking.schedule import ConstantSchedule
from speechprune.models.masked_ctc import MaskedCtc
from speechprune.models.settings import (
    GRANULARITIES,
    MaskedCtcConfig,
    check_flags,
    densities,
    freezes_scores,
    is_first_launch,
)

logger = logging.getLogger(__name__)


@register_model("wav2vec_ctc_st", dataclass=MaskedCtcConfig)
class Wav2VecCtcSt(MaskedCtc):
    """Learns which connections to keep; the weights stay as pretrained unless a flag frees them."""

    @classmethod
    def check_settings(cls, cfg: MaskedCtcConfig) -> None:
        check_flags(cfg)

    def prepare(self, from_pretrained: bool) -> None:
        """Start the scores, then freeze.

        Raises:
            UserError: flags that cannot work.
        """
        cfg = self.cfg
        check_flags(cfg, len(self.family.layers(self.backbone)))
        sites = self.mask_sites()
        unmasked = self.unmasked_weights()
        self.requires_grad_(False)
        self.mask_controller = MaskController(
            sites,
            POLICIES.build(
                "s3router",
                init_score=cfg.init_score,
                init_score_scale=cfg.init_score_scale,
                granularity=GRANULARITIES[cfg.linear_st_op],
                sigmoid=cfg.ste_sigmoid,
            ),
            ConstantSchedule(cfg.prune_rate, densities(cfg, sites)),
            seed=cfg.seed,
            initialise=from_pretrained,
        )
        self.takes_masks_only = from_pretrained and cfg.load_mask_only and is_first_launch(cfg)
        self.free_parameters(unmasked)
        if cfg.checkpoint_activations:
            for layer in self.family.layers(self.backbone):
                layer.register_forward_pre_hook(_require_gradient)
        if from_pretrained:
            _warn_of_what_cannot_learn(cfg)

    def unmasked_weights(self) -> List[nn.Parameter]:
        """The weights that could have a mask and do not."""
        masked = {site.name for site in self.mask_sites()}
        sites = self.family.sites(self.backbone, LAYER_ROLES + OTHER_ROLES)
        return [getattr(s.module, s.tensor) for s in sites if s.name not in masked]

    def free_parameters(self, unmasked: List[nn.Parameter]) -> None:
        """Unfreeze what the flags name; scores are free unless a flag freezes them."""
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
            freed += list(self.w2v_encoder.proj.parameters())
        if cfg.trainable_if_unpruned:
            freed += unmasked
        if cfg.co_train:
            freed += [original_weight(site) for site in self.mask_controller.sites]
        for parameter in freed:
            parameter.requires_grad_(True)
        for site in self.mask_controller.sites:
            scores = masked_weight(site).scores
            scores.requires_grad_(not freezes_scores(cfg, site))


def _warn_of_what_cannot_learn(cfg: MaskedCtcConfig) -> None:
    head_is_random = cfg.load_mask_only or not cfg.finetune_from_model
    if head_is_random and not cfg.trainable_proj:
        logger.warning(
            "model.trainable_proj=false freezes a randomly initialised CTC head: it will never "
            "learn; most runs want model.trainable_proj=true"
        )
    if not cfg.no_prune_extractor and cfg.feature_grad_mult <= 0:
        logger.warning(
            "model.no_prune_extractor=false masks the extractor, but model.feature_grad_mult=0 "
            "leaves its scores without gradient: its mask stays the first one"
        )


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
