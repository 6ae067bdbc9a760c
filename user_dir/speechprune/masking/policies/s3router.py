"""S3-Router: finetune which connections are kept, through one score per weight.

Fu et al., "Losses Can Be Blessings: Routing Self-Supervised Speech Representations Towards
Efficient Multilingual and Multitask Speech Processing", NeurIPS 2022 (arXiv 2211.01522).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.initialisation import check_name, initial_scores
from speechprune.masking.policies.base import POLICIES, MaskPolicy
from speechprune.registry import option


@POLICIES.register("s3router")
@dataclass(frozen=True)
class S3Router(MaskPolicy):
    """Keeps the largest |score|; scores learn by the straight-through estimator.

    Raises:
        UserError: an unknown initialisation, or a scale that is not positive.
    """

    by_magnitude: ClassVar[bool] = True
    prunes_biases: ClassVar[bool] = False

    init_score: str = option("How scores start, by S3-Router's names.", "kaiming_uniform")
    init_score_scale: float = option("What the starts ..._with_scale divide scores by.", 1.0)
    granularity: Literal["weight", "row", "column"] = option(
        "What shares a score: nothing (weight), an output row or an input column.", "weight"
    )
    sigmoid: bool = option(
        "Multiply the gradient of scores by s(1 - s), s = sigmoid(|score|).", False
    )

    def __post_init__(self) -> None:
        check_name(self.init_score)
        if not self.init_score_scale > 0.0:
            raise UserError(f"model.init_score_scale must be positive, not {self.init_score_scale}")

    def init_scores(self, weight: Tensor, density: float, generator: torch.Generator) -> Tensor:
        return initial_scores(
            self.init_score,
            weight,
            self._shared(weight.dim()),
            density,
            self.init_score_scale,
            generator,
        )

    def score_shape(self, shape: torch.Size) -> torch.Size:
        shared = self._shared(len(shape))
        return torch.Size(1 if d in shared else size for d, size in enumerate(shape))

    def importance(
        self, weight: Tensor, scores: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        assert scores is not None
        return scores

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        """dL/dscore = dL/dw * weight * sign(score), summed over what shares a score."""
        shared = self._shared(weight.dim())
        if shared:
            product = (gradient * weight).sum(dim=shared, keepdim=True).mul_(scores.sign())
        else:
            # One temporary only: two of this size would each be mapped afresh by the allocator.
            product = scores.sign().mul_(weight).mul_(gradient)
        if self.sigmoid:
            gate = scores.abs().sigmoid_()
            product.mul_(gate).mul_(gate.neg_().add_(1.0))
        return product

    def _shared(self, dimensions: int) -> tuple[int, ...]:
        """The dimensions of a weight along which entries share one score."""
        if self.granularity == "weight":
            return ()
        own = 0 if self.granularity == "row" else 1
        return tuple(d for d in range(dimensions) if d != own)
