"""What several trainings gave of one thing: the median, from the least to the most.

A mean with a standard deviation would tell of values that no training gave, and of error rates of
a few seeds its bar may end below 0 % or above 100 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Optional


@dataclass(frozen=True)
class Interval:
    """A median between the least and the most.

    Attributes:
        count: of the values.
    """

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """That of one value or more."""
        return cls(median(values), min(values), max(values), len(values))

    def in_words(self, digits: int = 1) -> str:
        """ "14.8 (10.1 to 19.0)", and a value that stands alone as "14.8"."""
        middle = f"{self.median:.{digits}f}"
        if self.count == 1:
            return middle
        return f"{middle} ({self.least:.{digits}f} to {self.most:.{digits}f})"


def seeds_in_words(seeds: Sequence[int]) -> str:
    """ "seed 1", "seeds 1, 2, 3"."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def updates_in_words(updates: Sequence[int]) -> str:
    """ "250 updates", or of several numbers "250 to 997 updates"."""
    least, most = min(updates), max(updates)
    numbers = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{numbers} update{'s' * (most != 1)}"


def training_in_words(
    updates: Sequence[int], seeds: Sequence[int], several: Optional[bool] = None
) -> str:
    """What a figure says of the trainings behind it.

    Args:
        updates: of each training, in all.
        seeds: of all of them.
        several: whether points are of several seeds; by default if there are several.
    """
    spread = len(seeds) > 1 if several is None else several
    over = "median, least and most of " * spread
    return f"{over}{seeds_in_words(seeds)}; {updates_in_words(updates)}"
