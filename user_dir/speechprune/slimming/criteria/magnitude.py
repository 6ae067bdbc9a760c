"""Magnitude: what is small is missed least. Needs neither training nor data."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from speechprune.slimming.criteria.base import CRITERIA, Criterion


@CRITERIA.register("magnitude")
class Magnitude(Criterion):
    """Scores an entry by |W|."""

    needs_gradient: ClassVar[bool] = False

    def entries(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        return weight.float().abs()
