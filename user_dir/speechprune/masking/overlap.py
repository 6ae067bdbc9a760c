"""How much masks agree, beside how much random masks of the same densities would.

Everything is counted on packed bits, so that comparing many masks of a large model takes seconds.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Callable, TypeVar

import numpy as np

from speechprune.errors import UserError
from speechprune.masking.bits import PackedMask, popcount
from speechprune.masking.mask_set import SYMBOLS, MaskSet
from speechprune.state_names import HEAD_SITES, layer_of

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Overlap:
    """The counts behind the likeness of two masks; counts of several sites add up.

    Two empty masks count as equal: their IOU and cosine are 1.

    Attributes:
        first, second: entries kept in the one and in the other mask.
        both: entries kept in both.
        both_by_chance: the mean of ``both`` over random masks that keep as many entries per site.
    """

    first: int
    second: int
    both: int
    both_by_chance: float

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.first + other.first,
            self.second + other.second,
            self.both + other.both,
            self.both_by_chance + other.both_by_chance,
        )

    @property
    def iou(self) -> float:
        """Kept in both / kept in either (PARP, arXiv 2106.05933)."""
        return self._iou(self.both)

    @property
    def cosine(self) -> float:
        """Cosine of the two masks as vectors of 0 and 1 (S3-Router, arXiv 2211.01522)."""
        return self._cosine(self.both)

    @property
    def iou_by_chance(self) -> float:
        """Random masks' IOU: d1 d2 / (d1 + d2 - d1 d2) at one site with the densities d1, d2.

        Over several sites, expected intersections / expected unions.
        """
        return self._iou(self.both_by_chance)

    @property
    def cosine_by_chance(self) -> float:
        """Random masks' cosine: sqrt(d1 d2) at one site with the densities d1, d2."""
        return self._cosine(self.both_by_chance)

    @property
    def cosine_above_chance(self) -> float:
        """(cosine - chance) / (1 - chance): 0 for random masks, and 1 for equal ones.

        Masks that keep everything leave nothing to agree on beyond chance: 0.
        """
        chance = self.cosine_by_chance
        return (self.cosine - chance) / (1 - chance) if chance < 1 else 0.0

    def _iou(self, both: float) -> float:
        either = self.first + self.second - both
        return both / either if either else 1.0

    def _cosine(self, both: float) -> float:
        if self.first == self.second:  # exactly 1 for equal masks, which a square root may miss
            return both / self.first if self.first else 1.0
        return both / sqrt(self.first * self.second) if both else 0.0


def overlap(first: MaskSet, second: MaskSet) -> Overlap:
    """The overlap of all sites together; raises UserError if the masks' sites differ."""
    return sum(overlaps(first, second, str).values(), Overlap(0, 0, 0, 0.0))


def overlaps(first: MaskSet, second: MaskSet, key: Callable[[str], Key]) -> dict[Key, Overlap]:
    """The overlap of each group that ``key`` makes of site names, as in `MaskSet.tallies`.

    Raises UserError if the masks' sites differ.
    """
    _check_comparable(first, second)
    return grouped({n: _overlap(first.packed(n), second.packed(n)) for n in first}, key)


def grouped(sites: Mapping[str, Overlap], key: Callable[[str], Key]) -> dict[Key, Overlap]:
    """Overlaps of single sites, added up in the groups that ``key`` makes of site names."""
    groups: dict[Key, Overlap] = {}
    for name, found in sites.items():
        groups[key(name)] = groups.get(key(name), Overlap(0, 0, 0, 0.0)) + found
    return groups


def pairwise(mask_sets: Sequence[MaskSet]) -> list[list[Overlap]]:
    """The overlap of every mask set (row) with every other (column).

    Raises UserError if the masks' sites differ.
    """
    count = len(mask_sets)
    table = [[Overlap(0, 0, 0, 0.0)] * count for _ in range(count)]
    for row in range(count):
        for column in range(row, count):
            found = overlap(mask_sets[row], mask_sets[column])
            table[row][column] = found
            table[column][row] = Overlap(
                found.second, found.first, found.both, found.both_by_chance
            )
    return table


def _check_comparable(first: MaskSet, second: MaskSet) -> None:
    """Raise UserError, saying what differs, unless both have masks of the same sites."""
    layers = [len({layer_of(name) for name in masks} - {None}) for masks in (first, second)]
    if layers[0] != layers[1]:
        raise UserError(
            f"masks of another model: one has {layers[0]} layer(s), the other {layers[1]}; "
            "compare masks of one model"
        )
    differing = set(first) ^ set(second)
    biased = [any(name.endswith(".bias") for name in masks) for masks in (first, second)]
    if biased[0] != biased[1] and all(name.endswith(".bias") for name in differing):
        raise UserError(
            "one has masks of biases, the other has none; train with model.prune_biases=false, or "
            "make masks with --no-biases, to compare the weights alone"
        )
    second.check_fits(first.shapes)
    symbols = {masks.provenance.get(SYMBOLS) for masks in (first, second)} - {None}
    if len(symbols) > 1 and set(HEAD_SITES) & set(first):
        raise UserError(
            "the rows of their output layers stand for other symbols, or for the same in another "
            "order; compare masks of one dictionary"
        )


def _overlap(first: PackedMask, second: PackedMask) -> Overlap:
    kept = first.tally.kept, second.tally.kept
    both = popcount(np.bitwise_and(first.bits, second.bits))
    return Overlap(*kept, both, kept[0] * kept[1] / first.tally.total)
