"""Dictionaries of several manifest folders joined into one for each kind of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.dictionary import (
    by_code_point,
    dictionary_name,
    read_dictionary,
    write_dictionary,
)
from speechprune.manifests.label_files import CLASSES, label_endings
from speechprune.manifests.slots import (
    CLASS_DICTIONARY,
    ClassCounts,
    joint_class_counts,
    write_class_counts,
)
from speechprune.manifests.spelling import WORD_END

#: Count by symbol, in order, and the symbols marked for fairseq to overwrite.
_Dictionary = tuple[Mapping[str, int], set[str]]


@dataclass(frozen=True)
class JointDictionaries:
    """What the labels of several corpora are made of.

    Attributes:
        symbols: the dictionary of each kind of labels, by its ending.
        classes: of whole utterances, where all corpora have such.
    """

    symbols: Mapping[str, _Dictionary]
    classes: ClassCounts | None

    @property
    def endings(self) -> list[str]:
        """Of all files of labels, at least one; those of classes come last."""
        return [*self.symbols, *([] if self.classes is None else [CLASSES])]

    @property
    def are_letters(self) -> bool:
        """Whether the first kind of symbols is letters."""
        return any(WORD_END in counts for counts, _ in list(self.symbols.values())[:1])

    def write(self, folder: Path) -> None:
        """Write all to a manifest folder."""
        for ending, (counts, overwritten) in self.symbols.items():
            write_dictionary(folder / dictionary_name(ending), counts, overwritten)
        if self.classes is not None:
            write_class_counts(folder / CLASS_DICTIONARY, self.classes)


def join_dictionaries(folders: Sequence[Path]) -> JointDictionaries:
    """The dictionary of each kind of labels that all manifest folders have.

    Raises UserError if they have none in common, letters would be mixed with units, labels are
    numbers, or slots differ.
    """
    first, *others = [label_endings(folder) for folder in folders]
    shared = [ending for ending in first if all(ending in found for found in others)]
    if not shared:
        there = "; ".join(f"{folder} has .{label_endings(folder)[0]}" for folder in folders)
        raise UserError(f"the folders have no labels in common: {there}")
    classes = None
    if CLASSES in shared:
        classes = joint_class_counts([folder / CLASS_DICTIONARY for folder in folders])
        shared.remove(CLASSES)
    found = {ending: _joint_dictionary(folders, dictionary_name(ending)) for ending in shared}
    # A cluster's number, or a phone's, means something else in another folder.
    named = {e: each for e, each in found.items() if not _are_numbers(each)}
    if not named and classes is None:
        raise UserError(
            f"the labels in {folders[0]}/{dictionary_name(shared[0])} are numbers, which "
            "may stand for something else in another folder; merge labels that are names"
        )
    return JointDictionaries(named, classes)


def _are_numbers(dictionary: _Dictionary) -> bool:
    symbols = dictionary[0]
    return bool(symbols) and all(map(str.isdecimal, symbols))


def _joint_dictionary(folders: Sequence[Path], name: str) -> _Dictionary:
    """As all folders have it, if they have the same; else their symbols, counts summed."""
    counts: Counter[str] = Counter()
    overwritten: set[str] = set()
    kinds: dict[bool, Path] = {}
    orders = set()
    for folder in folders:
        known, flagged = read_dictionary(folder / name)
        orders.add(tuple(known))
        counts.update(known)
        overwritten |= flagged
        kinds.setdefault(WORD_END in known, folder)
    if len(kinds) == 2:
        raise UserError(
            f"the labels of {kinds[True]} are letters (its {name} has {WORD_END!r}), those "
            f"of {kinds[False]} are units; merge corpora of one kind"
        )
    return (counts if len(orders) == 1 else by_code_point(counts)), overwritten
