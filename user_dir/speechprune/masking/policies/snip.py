"""SNIP, repeated while training.

Lee, Ajanthan and Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR
2019 (arXiv 1810.02340).
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechprune.masking.policies.base import POLICIES, MaskPolicy


@POLICIES.register("snip")
class Snip(MaskPolicy):
    """Keeps the weights whose removal would change the loss most: the largest sums of |W G|.

    The sums are over the updates since masks were last chosen, so that nothing is removed before
    some training; the weights may be frozen.
    """

    trains_weights = True
    removed_weights_return = True
    starts_dense = True
    ranks_at_first = False
    observes = True

    def importance(
        self, weight: Tensor, scores: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        assert scores is not None
        return scores

    def observe(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """W G, the derivative of the loss by a connection's gate (equations 3 and 4)."""
        return weight * gradient
