"""Slots and their classes, and the file that lists them: `dict.lbl.txt`.

A line is `slot<TAB>class<TAB>count`: slots in the order of the columns of `SPLIT.lbl`, the classes
of a slot in the order of a model's outputs, which is by code point in folders of ours.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.dictionary import by_code_point, dictionary_name
from speechprune.manifests.label_files import CLASSES
from speechprune.manifests.lines import read_lines, write_lines

CLASS_DICTIONARY = dictionary_name(CLASSES)

#: How often each class occurs, by slot; both in the order of a model's outputs.
ClassCounts = Mapping[str, Mapping[str, int]]

_TOLD = 20  # classes that a refusal names


@dataclass(frozen=True)
class Slot:
    """What is to be told of an utterance, such as its speaker, and the classes that there are.

    Raises UserError for a name that a line cannot hold, a class that is there twice, or a single
    class, of which nothing can be learnt.
    """

    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        check_name(self.name, "the name of a slot")
        for each in self.classes:
            check_name(each, f"a class of slot {self.name!r}")
        repeated = [each for each, count in Counter(self.classes).items() if count > 1]
        if repeated:
            raise UserError(f"slot {self.name!r} has the class {repeated[0]!r} twice; remove one")
        if len(self.classes) < 2:
            there = f"only the class {self.classes[0]!r}" if self.classes else "no class"
            raise UserError(f"slot {self.name!r} has {there}; there is nothing to tell apart")


#: In the order of the columns of `SPLIT.lbl`.
Slots = tuple[Slot, ...]


def check_name(text: str, what: str) -> None:
    """Raise UserError for the name of a slot or class that a line cannot hold."""
    plain = text.strip().lstrip("\ufeff")  # at a file's start, readers take that away
    if not plain or plain != text or not {"\t", "\n", "\r"}.isdisjoint(text):
        raise UserError(
            f"{text!r} cannot be {what}: it is empty, begins or ends with a blank, or has a tab or "
            "line feed"
        )


def slots_of(names: Sequence[str], labels: Iterable[Sequence[str]]) -> Slots:
    """The slots called `names`, with the classes that occur, sorted by code point.

    Args:
        labels: of each utterance, a class for each slot.

    Raises:
        UserError: two slots have one name, a slot has no two classes, or as `Slot`.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"two slots are called {repeated[0]!r}; choose another name")
    found: list[set[str]] = [set() for _ in names]
    for each in set(map(tuple, labels)):
        for classes, label in zip(found, each):
            classes.add(label)
    return tuple(Slot(name, tuple(sorted(classes))) for name, classes in zip(names, found))


def read_slots(folder: Path) -> Slots:
    """The slots of a manifest folder. Raises UserError as `read_slots_file`."""
    return read_slots_file(folder / CLASS_DICTIONARY)


def read_slots_file(path: Path) -> Slots:
    """The slots that a dictionary of classes lists.

    Raises UserError if it is missing, malformed, or lists what no `Slot` can be.
    """
    try:
        return tuple(Slot(name, tuple(counts)) for name, counts in read_class_counts(path).items())
    except UserError as error:
        message = str(error)
        raise UserError(message if str(path) in message else f"{path}: {message}") from None


def read_class_counts(path: Path) -> dict[str, dict[str, int]]:
    """How often each class occurs, by slot, as a dictionary of classes says.

    Raises UserError if it is missing, empty or malformed, or lists a class twice.
    """
    found: dict[str, dict[str, int]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        slot, *rest = line.split("\t")
        # No count has more digits; of thousands, Python makes no number.
        fit = len(rest) == 2 and rest[1].isdecimal() and len(rest[1]) <= 18
        if not fit or not slot.strip() or not rest[0].strip():
            raise UserError(
                f"{path} line {number}: expected `slot<TAB>class<TAB>count`, got {line!r}"
            )
        classes = found.setdefault(slot, {})
        if rest[0] in classes:
            raise UserError(f"{path} line {number}: {rest[0]!r} of {slot!r} is there twice")
        classes[rest[0]] = int(rest[1])
    if not found:
        raise UserError(f"{path} lists no class; prepare the corpus again")
    return found


def classes_digest(path: Path | None) -> str | None:
    """SHA-256 of the classes of a dictionary in their order, in hexadecimal; None of none.

    Raises UserError as `read_slots_file`.
    """
    if path is None:
        return None
    lines = (f"{slot.name}\t{name}" for slot in read_slots_file(path) for name in slot.classes)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_class_counts(path: Path, counts: ClassCounts) -> None:
    """Write what `read_class_counts` reads, in the order given."""
    write_lines(
        path,
        (
            f"{slot}\t{name}\t{count}"
            for slot, classes in counts.items()
            for name, count in classes.items()
        ),
    )


def count_classes(slots: Slots, labels: Iterable[Sequence[str]]) -> dict[str, dict[str, int]]:
    """How often each class of each slot occurs; 0 for those that do not."""
    counts = {slot.name: dict.fromkeys(slot.classes, 0) for slot in slots}
    for each, times in Counter(map(tuple, labels)).items():
        for classes, label in zip(counts.values(), each):
            classes[label] += times
    return counts


def copy_class_dictionary(path: Path, copy: Path, needed: Mapping[str, Iterable[str]]) -> None:
    """Copy a dictionary of classes to where they will be labels.

    Args:
        needed: the classes that the labels have, by slot.

    Raises:
        UserError: it is missing or malformed, has other slots, or lacks a class.
    """
    slots = read_slots_file(path)
    names = [slot.name for slot in slots]
    if names != list(needed):
        raise UserError(
            f"{path} has the slots {', '.join(names)}, the labels {', '.join(needed)}; give a "
            "dictionary of the same slots"
        )
    for slot in slots:
        missing = sorted(set(needed[slot.name]) - set(slot.classes))
        if missing:
            told = ", ".join(map(repr, missing[:_TOLD]))
            rest = f" and {len(missing) - _TOLD} more" if len(missing) > _TOLD else ""
            raise UserError(
                f"{path} lacks {told}{rest} of slot {slot.name!r}, which the labels have; give a "
                "dictionary that has them"
            )
    write_lines(copy, read_lines(path))


def joint_class_counts(paths: Sequence[Path]) -> dict[str, dict[str, int]]:
    """The classes of several dictionaries, counts summed; sorted, unless all have one order.

    Raises UserError if one is malformed or has other slots than the first.
    """
    found = [read_class_counts(path) for path in paths]
    for path, counts in zip(paths, found):
        if list(counts) != list(found[0]):
            raise UserError(
                f"{path} has the slots {', '.join(counts)}, {paths[0]} {', '.join(found[0])}; "
                "merge folders of the same slots"
            )
    joint = {}
    for slot in found[0]:
        orders = {tuple(counts[slot]) for counts in found}
        total: Counter[str] = Counter()
        for counts in found:
            total.update(counts[slot])
        joint[slot] = dict(total) if len(orders) == 1 else by_code_point(total)
    return joint
