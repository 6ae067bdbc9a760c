"""Which labels a manifest folder has: `SPLIT.ltr`, `SPLIT.phn` or any other `task.labels`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.dictionary import dictionary_name
from speechprune.manifests.rows import split_names

LETTERS = "ltr"
#: Classes of whole utterances, a column for each slot; see `classes`.
CLASSES = "lbl"
WORDS = "wrd"
SPEAKERS = "spk"

#: Labels also where their dictionary is not beside them.
_ALWAYS_LABELS = frozenset({LETTERS, "phn", CLASSES})


def label_endings(folder: Path) -> list[str]:
    """The endings of the label files of a manifest folder, at least one; letters come first.

    Those are .ltr, .phn, .lbl and all that have a dictionary; or .wrd, where there is nothing else.
    Raises UserError if the folder holds no split.
    """
    names = split_names(folder)
    there = {
        file.name.rpartition(".")[2]
        for name in names
        for file in folder.iterdir()
        if file.name.rpartition(".")[0] == name
    } - {"tsv", SPEAKERS}
    labels = {e for e in there if e in _ALWAYS_LABELS or (folder / dictionary_name(e)).exists()}
    in_order = sorted(labels, key=lambda ending: (ending != LETTERS, ending))
    return in_order or [WORDS if WORDS in there else LETTERS]


def chosen_endings(folder: Path, labels: str | None) -> list[str]:
    """The one ending that was asked for, or all there are.

    Raises UserError if no split has a file with that ending, or as `label_endings`.
    """
    if labels is None:
        return label_endings(folder)
    if not any((folder / f"{name}.{labels}").exists() for name in split_names(folder)):
        there = ", ".join(f".{ending}" for ending in label_endings(folder))
        raise UserError(f"{folder} has no SPLIT.{labels}; its labels are {there}")
    return [labels]


def named_ending(dictionary: Path, endings: Sequence[str]) -> str:
    """Which of some labels a dictionary is for: those that its name says, else the first."""
    named = [ending for ending in endings if dictionary.name == dictionary_name(ending)]
    return named[0] if named else endings[0]
