"""Masks of several languages on one model, compared language by language."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.overlap import Overlap, grouped, overlaps
from speechprune.reports.phonemes import Inventory

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Likeness:
    """How alike masks are.

    Attributes:
        cosine: of the masks as vectors of 0 and 1.
        by_chance: what random masks would have that keep as much of each tensor.
        above_chance: (cosine - chance) / (1 - chance).
    """

    cosine: float
    by_chance: float
    above_chance: float

    @classmethod
    def of(cls, found: Overlap) -> Likeness:
        """That of two masks."""
        return cls(found.cosine, found.cosine_by_chance, found.cosine_above_chance)

    @classmethod
    def mean(cls, each: Iterable[Likeness]) -> Likeness:
        """The means of one or more; their order changes nothing, not even by rounding."""
        return cls(*map(fmean, zip(*map(astuple, each))))


@dataclass(frozen=True)
class Language:
    """A language, and its masks.

    Attributes:
        name: its code, with the inventory's number where there are two inventories of this code.
        inventory: its phonemes.
        masks: what to call its masks, one or more.
        density: share kept; the mean of its masks.
    """

    name: str
    inventory: Inventory
    masks: tuple[str, ...]
    density: float


@dataclass(frozen=True)
class LanguageMasks:
    """Masks by language, every two of them compared once.

    Attributes:
        languages: one or more, sorted by name, and their masks likewise.
        sites: the overlaps of every two masks, by site; masks are numbered as ``languages`` has
            them, and the smaller number comes first.
    """

    languages: tuple[Language, ...]
    sites: Mapping[tuple[int, int], Mapping[str, Overlap]]

    @classmethod
    def of(
        cls, names: Sequence[str], mask_sets: Sequence[MaskSet], inventories: Sequence[Inventory]
    ) -> LanguageMasks:
        """Compare masks; the order in which they are given changes nothing.

        Args:
            names: what to call each mask set, each by a name of its own.
            mask_sets: one or more, of one model.
            inventories: of the language of each mask set.

        Raises UserError if the masks are not of one model.
        """
        given = sorted(zip(_names_of(inventories), names, mask_sets, inventories), key=_by_names)
        languages = []
        for name, group in itertools.groupby(given, key=lambda entry: entry[0]):
            _, masks, own, (inventory, *_) = zip(*group)
            languages.append(Language(name, inventory, masks, fmean(m.density for m in own)))
        _, masks, ordered, _ = zip(*given)
        return cls(tuple(languages), _overlaps(masks, ordered))

    def between(self, key: Callable[[str], Key]) -> dict[Key, list[Likeness]]:
        """How alike every two languages are, in each group that ``key`` makes of site names.

        It is the mean over all pairs of a mask of the one and a mask of the other. The pairs of
        languages are in the order of `itertools.combinations`.
        """
        groups: dict[Key, list[Likeness]] = {}
        masks = {pair: grouped(found, key) for pair, found in self.sites.items()}
        for one, two in itertools.combinations(self._numbers(), 2):
            pairs = list(itertools.product(one, two))
            for group in masks[pairs[0]]:
                mean = Likeness.mean(Likeness.of(masks[pair][group]) for pair in pairs)
                groups.setdefault(group, []).append(mean)
        return groups

    def within(self) -> dict[str, Likeness]:
        """How alike the masks of a language are, by the name of each that has several."""
        return {
            language.name: Likeness.mean(
                Likeness.of(_total(self.sites[pair])) for pair in itertools.combinations(own, 2)
            )
            for language, own in zip(self.languages, self._numbers())
            if len(own) > 1
        }

    def cosines(self) -> NDArray[np.float64]:
        """Of every mask (row) with every other (column), (M, M)."""
        matrix = np.eye(sum(len(each.masks) for each in self.languages))
        for (row, column), found in self.sites.items():
            matrix[row, column] = matrix[column, row] = _total(found).cosine
        return matrix

    def _numbers(self) -> list[range]:
        """The numbers of each language's masks."""
        ends = list(itertools.accumulate(len(each.masks) for each in self.languages))
        return [range(end - len(each.masks), end) for end, each in zip(ends, self.languages)]


def _names_of(inventories: Sequence[Inventory]) -> list[str]:
    """The code of each language, with the inventory's number where a code has two inventories."""
    of_code: dict[str, set[Inventory]] = {}
    for each in inventories:
        of_code.setdefault(each.language, set()).add(each)
    return [
        f"{each.language}:{each.number}" if len(of_code[each.language]) > 1 else each.language
        for each in inventories
    ]


def _by_names(entry: tuple[str, str, MaskSet, Inventory]) -> tuple[str, str]:
    return entry[:2]


def _overlaps(
    names: Sequence[str], mask_sets: Sequence[MaskSet]
) -> dict[tuple[int, int], dict[str, Overlap]]:
    """The overlaps of every two masks by site: the one time that bits are counted."""
    found = {}
    pairs = list(itertools.combinations(range(len(names)), 2))
    for one, two in tqdm(pairs, unit="pair", desc="masks", disable=None):
        try:
            found[one, two] = overlaps(mask_sets[one], mask_sets[two], str)
        except UserError as error:
            raise UserError(f"{names[one]} and {names[two]}: {error}") from error
    return found


def _total(sites: Mapping[str, Overlap]) -> Overlap:
    return sum(sites.values(), Overlap(0, 0, 0, 0.0))
