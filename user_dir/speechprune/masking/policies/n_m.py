"""Semi-structured N:M pruning, the pattern that sparse tensor cores multiply fast.

Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", ICLR 2021
(arXiv 2102.04010).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.policies.base import POLICIES, MaskPolicy
from speechprune.registry import option


@POLICIES.register("n_m")
@dataclass(frozen=True)
class NOfM(MaskPolicy):
    """Keeps the n largest of every m neighbouring weights of a row; removed ones may return.

    Raises:
        UserError: not 0 < n < m.
    """

    trains_weights: ClassVar[bool] = True
    needs_trained_weights: ClassVar[bool] = True
    removed_weights_return: ClassVar[bool] = True
    by_magnitude: ClassVar[bool] = True
    prunes_biases: ClassVar[bool] = False

    n: int = option("How many of every m neighbouring weights stay.", 2)
    m: int = option("How many neighbouring weights are ranked together.", 4)

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise UserError(f"cannot keep n={self.n} of every m={self.m} weights: 0 < n < m")

    @property
    def pattern(self) -> tuple[int, int]:
        return self.n, self.m

    def importance(
        self, weight: Tensor, scores: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        return weight
