"""Gradient: what the loss does not depend on is missed least."""

from __future__ import annotations

from torch import Tensor

from speechprune.slimming.criteria.base import CRITERIA, Criterion


@CRITERIA.register("gradient")
class Gradient(Criterion):
    """Scores an entry by |G|, the gradient of the last update."""

    def entries(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        assert gradient is not None
        return gradient.float().abs()
