"""Which words of a transcript are right, and which edit each of the others is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np


@dataclass(frozen=True)
class Aligned:
    """A place of an alignment.

    Attributes:
        reference: the token that was to be found; None where one was inserted.
        hypothesis: the token that was found; None where one was deleted.
    """

    reference: Optional[str]
    hypothesis: Optional[str]

    @property
    def is_right(self) -> bool:
        """Whether the token was found."""
        return self.reference == self.hypothesis


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Aligned]:
    """A minimal alignment of two sequences, of those that `count_errors` counts.

    It has the fewest edits (Levenshtein distance), and among these the most substitutions; of equal
    ones, the edits stand as late as possible.
    """
    costs = _costs(reference, hypothesis)
    unit = len(reference) + len(hypothesis) + 1
    found = []
    row, column = len(reference), len(hypothesis)
    while row or column:
        here = costs[row, column]
        if row and here == costs[row - 1, column] + unit + 1:
            row -= 1
            found.append(Aligned(reference[row], None))
        elif column and here == costs[row, column - 1] + unit + 1:
            column -= 1
            found.append(Aligned(None, hypothesis[column]))
        else:
            row, column = row - 1, column - 1
            found.append(Aligned(reference[row], hypothesis[column]))
    return found[::-1]


def _costs(reference: Sequence[str], hypothesis: Sequence[str]) -> np.ndarray:
    """Costs of the cheapest alignments of all prefixes, int64 (R + 1, H + 1).

    An edit costs R + H + 1, and a gap one more, as for `speechprune.decoding.scoring`.
    """
    unit = len(reference) + len(hypothesis) + 1
    costs = np.zeros((len(reference) + 1, len(hypothesis) + 1), dtype=np.int64)
    gaps = (unit + 1) * np.arange(len(hypothesis) + 1)
    costs[0] = gaps
    for row, token in enumerate(reference, start=1):
        wrong = np.array([token != other for other in hypothesis], dtype=np.int64)
        above = costs[row - 1]
        best = above + unit + 1
        best[1:] = np.minimum(best[1:], above[:-1] + unit * wrong)
        costs[row] = np.minimum.accumulate(best - gaps) + gaps
    return costs
