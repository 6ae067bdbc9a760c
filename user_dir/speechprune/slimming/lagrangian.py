"""The Lagrangian that leads an expected share to its target.

Wang et al., "Structured Pruning of Large Language Models", EMNLP 2020 (arXiv 1910.04732), section
3.3, as DPHuBERT uses it (Peng et al., Interspeech 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechprune.errors import UserError
from speechprune.slimming.rescaling import RATE, check_rate, rescaled


class Lagrangian(nn.Module):
    """lambda1 (e - t) + lambda2 (e - t)^2, of the expected share e removed and its target t.

    The target rises linearly from 0. The multipliers lambda1 and lambda2 start at 0 and ascend
    while everything else descends: their gradients have the opposite sign.

    Args:
        target: share to be removed at last, from 0 to below 1.
        warmup: updates until the target is reached; 0 for the whole target from the start.
        rate: how many times the optimizer's learning rate the multipliers move.

    Attributes:
        scaled_multipliers: (2,), lambda1 and lambda2 over rate; see
            `speechprune.slimming.rescaling`.
        update: of the training, which the target depends on.

    Raises:
        UserError: a target outside of [0, 1), ``warmup`` below 0, or ``rate`` not above 0.
    """

    def __init__(self, target: float, warmup: int, *, rate: float = RATE) -> None:
        super().__init__()
        if not 0.0 <= target < 1.0:
            raise UserError(f"a share to remove is from 0 to below 1, not {target}")
        if warmup < 0:
            raise UserError(f"the target is reached after 0 or more updates, not {warmup}")
        check_rate(rate)
        self.target = target
        self.warmup = warmup
        self.rate = rate
        self.update = 0
        self.scaled_multipliers = nn.Parameter(torch.zeros(2, dtype=torch.float32))

    @property
    def current_target(self) -> float:
        """t at the present update."""
        if self.update >= self.warmup:
            return self.target
        return self.target * self.update / self.warmup

    @property
    def multipliers(self) -> Tensor:
        """lambda1 and lambda2, (2,), float32, with a gradient of the opposite sign."""
        return rescaled(self.scaled_multipliers, self.rate, sign=-1.0)

    def forward(self, share_removed: Tensor) -> Tensor:
        """The term to add to the loss, a float32 scalar.

        Args:
            share_removed: e, a float32 scalar with a gradient.
        """
        excess = share_removed - self.current_target
        lambda1, lambda2 = self.multipliers
        term: Tensor = lambda1 * excess + lambda2 * excess.square()
        return term
