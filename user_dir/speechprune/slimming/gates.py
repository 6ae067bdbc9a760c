"""Hard concrete gates: trainable switches that are mostly exactly 0 or exactly 1.

Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018
(arXiv 1712.01312), with the settings of Peng et al., "DPHuBERT: Joint Distillation and Pruning of
Self-Supervised Speech Models", Interspeech 2023 (arXiv 2305.17651).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from speechprune.slimming.rescaling import RATE, check_rate, rescaled

#: Temperature of the concrete distribution.
BETA = 2.0 / 3.0
#: The interval that it is stretched to, before values are clamped to [0, 1].
LOW, HIGH = -0.1, 1.1
#: P(z > 0) = sigmoid(log_alpha + OFFSET), equation 12 of Louizos et al.; 1.5986.
OFFSET = -BETA * math.log(-LOW / HIGH)
#: Evaluation values are sigmoid(SHARPNESS * log_alpha), as DPHuBERT chose by experiment; 1.2.
SHARPNESS = 0.8 / BETA
#: Standard deviation of log_alpha at the start.
DEVIATION = 0.01
#: Noise keeps this far from 0 and 1.
MARGIN = 1e-6


class HardConcrete(nn.Module):
    """The gates of one group of N units, such as the heads of a layer.

    In training a gate is random. :meth:`draw` takes the noise, and :meth:`forward` makes values
    of it, each time with a graph of its own: call the first once in a step, so that activation
    checkpointing computes the same values again. The noise comes from torch's global generator of
    the device, which fairseq seeds by run and update; processes that train on different data may
    draw different noise. In evaluation the values are fixed.

    All is computed in float32, whatever the dtype of the parameter.

    Args:
        units: N.
        drop_rate: share of units that starts as good as dropped; log_alpha starts normally
            distributed about log((1 - drop_rate) / drop_rate).
        generator: of the processor, for the starting values.
        size: how many neighbouring entries of the input belong to one unit.
        rate: how many times the optimizer's learning rate log_alpha moves.

    Attributes:
        scaled_log_alpha: (N,), log_alpha / rate; see `speechprune.slimming.rescaling`.
        noise: (N,), float32, in (0, 1); None before the first draw.

    Raises:
        UserError: ``rate`` is not above 0.
    """

    def __init__(
        self,
        units: int,
        drop_rate: float,
        generator: torch.Generator,
        *,
        size: int = 1,
        rate: float = RATE,
    ) -> None:
        super().__init__()
        check_rate(rate)
        self.units = units
        self.size = size
        self.rate = rate
        mean = math.log((1.0 - drop_rate) / drop_rate)
        start = torch.empty(units, dtype=torch.float32).normal_(
            mean, DEVIATION, generator=generator
        )
        self.scaled_log_alpha = nn.Parameter(start / rate)
        self.noise: Tensor | None = None

    @property
    def log_alpha(self) -> Tensor:
        """(N,), float32, with a gradient."""
        return rescaled(self.scaled_log_alpha, self.rate)

    def draw(self) -> None:
        """Take the noise of one training step."""
        device = self.scaled_log_alpha.device
        noise = torch.empty(self.units, dtype=torch.float32, device=device)
        self.noise = noise.uniform_(MARGIN, 1.0 - MARGIN)

    def forward(self) -> Tensor:
        """The values of the gates, (N,), float32, in [0, 1].

        Raises:
            RuntimeError: in training, before anything was drawn.
        """
        if not self.training:
            return self.evaluation_values()
        if self.noise is None:
            raise RuntimeError("gates in training need noise: call draw() before each step")
        concrete = torch.sigmoid((torch.logit(self.noise) + self.log_alpha) / BETA)
        return (concrete * (HIGH - LOW) + LOW).clamp(0.0, 1.0)

    def scale_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A forward pre-hook: the first input (.., N * size) times the gates of its entries."""
        first, *others = inputs
        values = self().repeat_interleave(self.size)
        return (first * values.to(first.dtype), *others)

    def probability_kept(self) -> Tensor:
        """P(z > 0) of every unit, (N,), float32, with a gradient."""
        return torch.sigmoid(self.log_alpha + OFFSET)

    def expected(self) -> Tensor:
        """How many units are expected to stay: a float32 scalar with a gradient."""
        return self.probability_kept().sum()

    @torch.no_grad()
    def kept(self) -> Tensor:
        """(N,), bool: units that evaluation keeps.

        As many go as are expected to, rounded, those of the smallest log_alpha; of equal ones the
        lower index stays, and one unit always does.
        """
        removed = (1.0 - self.probability_kept().double()).sum().round()
        order = self.log_alpha.sort(descending=True, stable=True).indices
        ranks = torch.empty_like(order)
        ranks[order] = torch.arange(self.units, device=order.device)
        return ranks < (self.units - removed).clamp_min(1.0)

    @torch.no_grad()
    def evaluation_values(self) -> Tensor:
        """(N,), float32: 0 for units that go; those that stay have values below 1."""
        return torch.where(self.kept(), torch.sigmoid(SHARPNESS * self.log_alpha), 0.0)
