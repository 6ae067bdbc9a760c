"""Movement pruning.

Sanh, Wolf and Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020
(arXiv 2005.07683).
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechprune.masking.policies.base import POLICIES, MaskPolicy


@POLICIES.register("movement")
class Movement(MaskPolicy):
    """Keeps the weights that training moves away from zero: scores gather -weight * dL/dweight.

    Scores start equal, so that nothing should be removed before some training.
    """

    trains_weights = True
    removed_weights_return = True
    starts_dense = True
    ranks_at_first = False

    def init_scores(self, weight: Tensor, density: float, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(weight)

    def score_shape(self, shape: torch.Size) -> torch.Size:
        return shape

    def importance(
        self, weight: Tensor, scores: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        assert scores is not None
        return scores

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        """dL/dscore = dL/dproduct * weight (equation 3)."""
        return gradient * weight
