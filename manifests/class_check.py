"""What is wrong with the classes of a manifest folder; the rest is checked in `report`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.classes import is_for_training, label_problem, unseen
from speechprune.manifests.label_files import CLASSES
from speechprune.manifests.slots import Slots, count_classes, read_slots_file


class ClassCheck:
    """Goes through the splits of a folder.

    Args:
        dictionary: `dict.lbl.txt`, or what is to take its place.
        error: takes the split of a problem, "" for the whole folder, its kind and a message.
        warn: takes the kind of what may be right, and a message.
    """

    def __init__(
        self,
        folder: Path,
        dictionary: Path,
        error: Callable[[str, str, str], None],
        warn: Callable[[str, str], None],
    ) -> None:
        self._folder, self._dictionary = folder, dictionary
        self._error, self._warn = error, warn
        self._labels: dict[str, list[tuple[str, ...]]] = {}
        self._slots: Slots = ()
        try:
            self._slots = read_slots_file(dictionary)
        except UserError as problem:
            error("", "dictionary", str(problem))

    def split(self, name: str, lines: Sequence[str]) -> int:
        """Compare the labels of a split with the dictionary; returns the number of classes."""
        found = sorted(set(lines))
        problems = {line: label_problem(line, self._slots) for line in found if self._slots}
        for number, line in enumerate(lines, start=1):
            if problems.get(line):
                where = f"{self._folder / name}.{CLASSES} line {number}"
                self._error(name, "label", f"{where}: {problems[line]}")
        good = [tuple(line.split("\t")) for line in found if not problems.get(line)]
        self._labels[name] = good
        return len({each for labels in good for each in enumerate(labels)})

    def compare(self) -> None:
        """Once all splits are checked: look for classes that are tested or listed, and that no
        split to train on has."""
        missing = list(unseen(self._labels, self._slots))
        for slot, label in missing:
            message = f"no split to train on has {label!r} of slot {slot!r}, which another has"
            self._error("", "unseen class", message)
        trained = [
            labels
            for name, each in self._labels.items()
            if is_for_training(name)
            for labels in each
        ]
        if not trained:
            return
        for slot, counts in count_classes(self._slots, trained).items():
            for label, count in counts.items():
                if not count and (slot, label) not in missing:
                    where = f"{self._dictionary.name} lists, and no split has"
                    self._warn("empty class", f"{label!r} of slot {slot!r}, which {where}")
