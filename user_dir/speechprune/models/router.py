"""Finetuning the connections of a speech model in place of its weights (S3-Router)."""

import logging
from typing import Any

from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import masked_weight
from speechprune.masking.policies import POLICIES, MaskPolicy
from speechprune.masking.schedule import ConstantSchedule
from speechprune.models.config import FinetunedConfig
from speechprune.models.declaration import LAYER_FLAGS, MASK_FLAGS
from speechprune.models.mask_flags import (
    GRANULARITIES,
    PER_UNIT,
    check_flags,
    check_network,
    densities,
    freezes_scores,
)
from speechprune.models.masked import Masked
from speechprune.models.restart import is_first_launch
from speechprune.slimming.unit_views import unit_views

logger = logging.getLogger(__name__)

#: Roles that model.linear_st_op does not reach: S3-Router shares scores in the encoder's linear
#: layers alone.
_ONE_SCORE_PER_WEIGHT = ("front.conv", "pos.conv", "head")
#: The same where heads and channels have scores: what is outside the layers has neither.
_WITHOUT_UNITS = (*_ONE_SCORE_PER_WEIGHT, "front.proj")


class Router(Masked):
    """Learns which connections to keep; the weights stay as pretrained unless a flag frees them."""

    reads = LAYER_FLAGS | MASK_FLAGS
    label = "S3-Router"

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        super().check_settings(cfg)
        check_flags(cfg)

    @classmethod
    def check_depth(cls, cfg: Any, layers: int) -> None:
        check_flags(cfg, layers)

    def prepare(self, from_pretrained: bool) -> None:
        """Start the scores, then freeze.

        Raises:
            UserError: flags that cannot work.
        """
        cfg = self.cfg
        check = check_flags if from_pretrained else check_network
        check(cfg, self.depth)
        sites = self.mask_sites()
        self.requires_grad_(cfg.co_train)
        of_linear, of_others = (self._policy(name) for name in (cfg.linear_st_op, "linear_st"))
        per_unit = cfg.linear_st_op == PER_UNIT
        others = _WITHOUT_UNITS if per_unit else _ONE_SCORE_PER_WEIGHT
        self.mask_controller = MaskController(
            sites,
            of_linear,
            ConstantSchedule(cfg.prune_rate, densities(cfg, sites)),
            seed=cfg.seed,
            initialise=from_pretrained,
            trains_weights=cfg.co_train,
            own_policies={role: of_others for role in others},
            views=unit_views(sites, self.family.units(self.backbone)) if per_unit else None,
        )
        self.takes_masks_only = from_pretrained and cfg.load_mask_only and is_first_launch(cfg)
        if not cfg.co_train:
            self.free_parameters()
        for site in sites:
            scores = masked_weight(site).scores
            assert scores is not None
            scores.requires_grad_(not freezes_scores(cfg, site))
        self.let_gradients_through()
        if from_pretrained:
            self.warn_of_frozen_head()
            self.warn_of_flags_without_effect()
            _warn_of_frozen_extractor(cfg)

    def _policy(self, linear_st_op: str) -> MaskPolicy:
        policy: MaskPolicy = POLICIES.build(
            "s3router",
            init_score=self.cfg.init_score,
            init_score_scale=self.cfg.init_score_scale,
            granularity=GRANULARITIES[linear_st_op],
            sigmoid=self.cfg.ste_sigmoid,
        )
        return policy


def _warn_of_frozen_extractor(cfg: FinetunedConfig) -> None:
    if not cfg.no_prune_extractor and cfg.feature_grad_mult <= 0:
        logger.warning(
            "model.no_prune_extractor=false masks the extractor, but model.feature_grad_mult=0 "
            "leaves its scores without gradient: its mask stays the first one"
        )
