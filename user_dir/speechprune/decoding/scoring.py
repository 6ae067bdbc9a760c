"""Error rates of a corpus, with the counts that they are made of."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


def rate_names(*, letters: bool) -> dict[str, str]:
    """The error rates that tell something of transcripts, by their names in JSON, and what tables
    call them.

    Args:
        letters: as for `count_text_errors`; units have one rate.
    """
    return {"wer": "WER", "cer": "CER"} if letters else {"wer": "UER"}


@dataclass(frozen=True)
class ErrorCounts:
    """Edits that turn references into hypotheses, summed over utterances.

    Counts add, so the rate of a corpus is the rate of the sum, not a mean of rates.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_length: int = 0
    utterances: int = 0

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Edits per reference token; the number of edits where there are no reference tokens, so
        that insertions count, and means and JSON, which has no infinity, can be made of it."""
        return self.errors / max(1, self.reference_length)

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
            self.utterances + other.utterances,
        )


def count_errors(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> ErrorCounts:
    """The edits of one minimal alignment of two sequences; either may be empty.

    Of all alignments with the fewest edits (Levenshtein distance), one with the most
    substitutions is counted.
    """
    # An edit costs `unit`, and a gap one more: the cost is unit * edits + gaps, so the smallest
    # cost tells both, and deletions - insertions follows from the lengths. No backtrace is needed.
    unit = len(reference) + len(hypothesis) + 1
    edits, gaps = divmod(_alignment_cost(reference, hypothesis, unit, unit + 1), unit)
    surplus = len(reference) - len(hypothesis)
    deletions = (gaps + surplus) // 2
    return ErrorCounts(edits - gaps, deletions, gaps - deletions, len(reference), 1)


def count_text_errors(
    reference: str, hypothesis: str, *, letters: bool
) -> tuple[ErrorCounts, ErrorCounts]:
    """Errors over words and over characters, of which all error rates are made.

    Args:
        letters: whether the texts are words spelt by letters; else they are units, such as phones
            or Mandarin characters, which are what words and characters are then.
    """
    words = count_word_errors(reference, hypothesis)
    return words, count_character_errors(reference, hypothesis) if letters else words


def count_word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Errors over words, parted by white space."""
    return count_errors(reference.split(), hypothesis.split())


def count_character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Errors over characters; words are parted by one space, which counts as a character."""
    return count_errors(" ".join(reference.split()), " ".join(hypothesis.split()))


def _alignment_cost(
    reference: Sequence[Hashable], hypothesis: Sequence[Hashable], substitution: int, gap: int
) -> int:
    """Cost of the cheapest alignment (Wagner and Fischer 1974), one reference token at a time."""
    numbers: dict[Hashable, int] = {}
    tokens = np.array([numbers.setdefault(t, len(numbers)) for t in hypothesis], dtype=np.int64)
    only_insertions = gap * np.arange(len(tokens) + 1, dtype=np.int64)
    costs = only_insertions
    for token in reference:
        matched = costs[:-1] + np.where(tokens == numbers.get(token, -1), 0, substitution)
        costs = costs + gap
        costs[1:] = np.minimum(costs[1:], matched)
        # A cell may also be reached from any cell to its left by insertions.
        costs = np.minimum.accumulate(costs - only_insertions) + only_insertions
    return int(costs[-1])
