"""How often the classes of utterances are right, with the counts that this is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Standard deviations of a normal distribution within which 95 % of it lie.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Accuracy:
    """A share of utterances, as two counts."""

    correct: int
    utterances: int

    @property
    def rate(self) -> float:
        """The share."""
        return self.correct / self.utterances

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the share.

        Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA
        22, 1927: the shares that a test of the normal approximation does not reject.
        """
        n, p = self.utterances, self.rate
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class SlotAccuracy:
    """How often one slot is right.

    Attributes:
        name: of the slot.
        classes: in order.
        confusion: utterances by their class and the one that was told, int64 (classes, classes).
        unheard: utterances of each class that are too short for a frame, and count as wrong, int64
            (classes,).
    """

    name: str
    classes: tuple[str, ...]
    confusion: np.ndarray
    unheard: np.ndarray

    @property
    def of_class(self) -> np.ndarray:
        """Utterances of each class, int64 (classes,)."""
        counts: np.ndarray = self.confusion.sum(axis=1) + self.unheard
        return counts

    @property
    def accuracy(self) -> Accuracy:
        """Of all utterances."""
        return Accuracy(int(self.confusion.trace()), int(self.of_class.sum()))

    @property
    def recalls(self) -> dict[str, Accuracy | None]:
        """Of the utterances of each class; None of a class without any."""
        right, there = self.confusion.diagonal().tolist(), self.of_class.tolist()
        counted = zip(self.classes, right, there)
        return {name: Accuracy(r, n) if n else None for name, r, n in counted}

    @property
    def shares(self) -> np.ndarray:
        """What share of each class is told as which, float (classes, classes); NaN in the rows of
        classes without utterances."""
        counts = self.of_class[:, None]
        return np.where(counts > 0, self.confusion / np.maximum(counts, 1), np.nan)
