"""SNIP: what would change the loss least by its removal.

Lee, Ajanthan and Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR
2019 (arXiv 1810.02340), equations 3 and 4.
"""

from __future__ import annotations

from torch import Tensor

from speechprune.slimming.criteria.base import CRITERIA, Criterion


@CRITERIA.register("snip")
class Snip(Criterion):
    """Scores an entry by |W G|, with the gradient of the last update."""

    def entries(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        assert gradient is not None
        # Widened before the product, which would underflow in half precision.
        return (weight.float() * gradient.float()).abs_()
