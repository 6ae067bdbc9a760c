"""Gradual magnitude pruning.

Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
2017 (arXiv 1710.01878).
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechprune.masking.policies.base import POLICIES, MaskPolicy


@POLICIES.register("gradual_magnitude")
class GradualMagnitude(MaskPolicy):
    """Keeps the largest weights; a removed weight gets no gradient, and may be kept again."""

    trains_weights = True
    needs_trained_weights = True
    removed_weights_return = True
    by_magnitude = True
    starts_dense = True

    def importance(
        self, weight: Tensor, scores: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        return weight
