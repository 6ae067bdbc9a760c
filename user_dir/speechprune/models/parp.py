"""Pruning while finetuning, by PARP or another policy that trains weights."""

from typing import Any, ClassVar

from speechprune.errors import UserError
from speechprune.models.declaration import LAYER_FLAGS, PRUNING_FLAGS
from speechprune.models.mask_flags import SITE_FLAGS
from speechprune.models.policy_pruning import PolicyPruning
from speechprune.models.pruning_flags import policy_of


class Parp(PolicyPruning):
    """`PolicyPruning` with all weights trained.

    Source: Lai et al., NeurIPS 2021 (arXiv 2106.05933), for ``model.policy=parp``.
    """

    reads = LAYER_FLAGS | (PRUNING_FLAGS - {"train_weights"}) | {*SITE_FLAGS, "eval_only"}
    #: What to use for policies that do not train weights, in words.
    for_frozen_weights: ClassVar[str]

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        super().check_settings(cfg)
        if not policy_of(cfg).trains_weights:
            raise UserError(
                f"model.policy={cfg.policy} does not train weights; {cls.for_frozen_weights}"
            )

    @property
    def trains_weights(self) -> bool:
        return True
