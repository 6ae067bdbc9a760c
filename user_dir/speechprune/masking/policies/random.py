"""Random pruning: the control that any other way to choose has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from speechprune.masking.policies.base import POLICIES, MaskPolicy


@POLICIES.register("random")
class Random(MaskPolicy):
    """Keeps weights by chance, drawn anew at each choice of masks."""

    trains_weights = True
    removed_weights_return = True
    redraws = True

    def importance(
        self, weight: Tensor, scores: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        return torch.rand(weight.shape, generator=generator).to(weight.device)
