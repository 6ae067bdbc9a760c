"""Axes: where values lie on them, and which values are written beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: How many times its smallest value the largest one is, from which on an axis is logarithmic.
_DECADES = 30.0
_MANY_TICKS = 6


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        low, high: the values at its ends; ``low`` < ``high``.
        ticks: values to write beside it.
        is_log: whether equal distances are equal ratios.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the ends: 0 is ``low`` and 1 is ``high``."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def scale_of(values: Sequence[float], *, from_zero: bool = False) -> Scale:
    """The axis that finite values fit on, of which there is at least one.

    It is logarithmic if all are positive and they span more than a factor of 30.

    Args:
        from_zero: whether it begins at 0 (and is linear) if no value is negative.
    """
    low, high = min(values), max(values)
    if not from_zero and low > 0 and high / low > _DECADES:
        return _logarithmic(low, high)
    if from_zero and low >= 0:
        low = 0.0
    if low == high:
        margin = abs(low) / 2 or 0.5
        low, high = (low, low + 2 * margin) if low == 0 else (low - margin, high + margin)
    step = _step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 12) for number in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def _logarithmic(low: float, high: float) -> Scale:
    """Ends and ticks are 1, 2 or 5 times a power of ten, or powers alone where those are many."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    known = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    start = max(value for value in known if value <= low * (1 + 1e-9))
    end = min(value for value in known if value >= high * (1 - 1e-9))
    inside = [value for value in known if start <= value <= end]
    if len(inside) > _MANY_TICKS:
        inside = [10.0**power for power in powers if start <= 10.0**power <= end]
    while len(inside) > _MANY_TICKS:
        inside = inside[::2]
    return Scale(start, end, tuple(float(f"{value:.3g}") for value in inside), is_log=True)


def _step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))


def short(value: float) -> str:
    """A number as it is written beside an axis."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (1 if size > 1e3 else 10):
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
