"""Another dictionary for a manifest folder, such as that of a model to train further."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from speechprune.manifests.dictionary import copy_dictionary, dictionary_name
from speechprune.manifests.label_files import CLASSES, label_endings, named_ending
from speechprune.manifests.lines import read_lines
from speechprune.manifests.rows import split_names
from speechprune.manifests.slots import copy_class_dictionary, read_class_counts


def replace_dictionary(folder: Path, dictionary: Path) -> None:
    """Put a dictionary in the place of that of a manifest folder.

    Which one, if the folder has several, its name says: `dict.phn.txt` is that of .phn.

    Raises UserError if it is missing, malformed, or lacks a symbol or class of the labels.
    """
    ending = named_ending(dictionary, label_endings(folder))
    copy = folder / dictionary_name(ending)
    if ending == CLASSES:
        rows = [line.split("\t") for line in set(_lines(folder, ending))]
        columns = dict(zip(read_class_counts(copy), map(set, zip(*rows))))
        copy_class_dictionary(dictionary, copy, columns)
    else:
        needed = {symbol for line in _lines(folder, ending) for symbol in line.split()}
        copy_dictionary(dictionary, copy, needed)


def _lines(folder: Path, ending: str) -> Iterator[str]:
    """The labels of all splits."""
    for name in split_names(folder):
        if (folder / f"{name}.{ending}").exists():
            yield from read_lines(folder / f"{name}.{ending}")
