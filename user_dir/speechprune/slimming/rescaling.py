"""Parameters with a learning rate of their own, under an optimizer that has one for all.

Adam's step does not depend on the scale of the gradient. A parameter that holds its value divided
by ``rate``, and gets the gradient of the value itself, therefore moves the value by ``rate`` times
the learning rate; with the sign of its gradient turned it climbs instead of descending. Clipping
and logging of gradients see the gradient of the value, unscaled. Weight decay, which Adam adds to
the parameter, shrinks the value at the rate of all other parameters: train without it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from speechprune.errors import UserError

#: Of DPHuBERT: gates and multipliers learn at 0.02 beside weights at 0.0002.
RATE = 100.0


class _Rescaled(torch.autograd.Function):
    """rate * parameter; backward, sign * gradient."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, rate: float, sign: float) -> Tensor:
        ctx.sign = sign
        return parameter * rate

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient * ctx.sign, None, None


def rescaled(parameter: Tensor, rate: float, sign: float = 1.0) -> Tensor:
    """The value, float32, of a parameter that holds the value divided by ``rate``.

    Args:
        parameter: of any floating dtype and shape.
        rate: how many times the optimizer's learning rate the value moves.
        sign: 1 to descend, -1 to ascend.
    """
    value: Tensor = _Rescaled.apply(parameter.float(), rate, sign)  # type: ignore[no-untyped-call]
    return value


def check_rate(rate: float) -> None:
    """Raise UserError unless ``rate`` is above 0."""
    if not rate > 0.0:
        raise UserError(f"the rate of gates and multipliers must be above 0, not {rate}")
