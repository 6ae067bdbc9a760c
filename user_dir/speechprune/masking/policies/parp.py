"""PARP: prune, adjust, re-prune.

Lai et al., "PARP: Prune, Adjust and Re-Prune for Self-Supervised Speech Recognition", NeurIPS 2021
(arXiv 2106.05933).
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechprune.masking.policies.base import POLICIES, MaskPolicy


@POLICIES.register("parp")
class Parp(MaskPolicy):
    """Keeps the largest weights; the others are set to zero once and may grow again.

    Between two selections training knows no mask. What is validated and saved is pruned afresh.
    """

    trains_weights = True
    needs_trained_weights = True
    removed_weights_return = True
    by_magnitude = True
    dense_gradient = True
    masks_evaluation_only = True

    def importance(
        self, weight: Tensor, scores: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        return weight

    def edit_weight(self, weight: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, weight, 0.0)
