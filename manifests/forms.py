"""The two forms of a prepared folder: texts to be recognised, and classes to be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Union

from speechprune.errors import UserError
from speechprune.manifests.classes import (
    LabelledSplit,
    LabelledUtterance,
    read_labelled_split,
    write_labelled_manifest,
)
from speechprune.manifests.corpus import Labels
from speechprune.manifests.dictionary import symbols_digest
from speechprune.manifests.labelled_corpus import ClassLabels, labels_of
from speechprune.manifests.manifest import Split, read_split, write_manifest
from speechprune.manifests.slots import Slots, classes_digest, count_classes

#: A split of either form.
AnySplit = Union[Split, LabelledSplit]


class Form(Protocol):
    """How the splits of a folder are written and read."""

    def digest(self, dictionary: Path | None) -> str | None:
        """SHA-256 of what a dictionary lists, in order; None of none. Raises UserError if it is
        malformed."""

    def write(
        self,
        folder: Path,
        splits: Sequence[Split],
        provenance: Mapping[str, Any],
        dictionary: Path | None,
    ) -> tuple[AnySplit, ...]:
        """Write the text files of a folder, and return its splits.

        Args:
            splits: the text of an utterance is its label, as the corpus's `Labels` made it.
            provenance, dictionary: as in `manifest.write_manifest`.

        Raises:
            UserError: as `write_manifest` and `write_labelled_manifest`.
        """

    def read(self, folder: Path, name: str) -> AnySplit:
        """A split of a folder that was written."""


def form_of(labels: Labels) -> Form:
    """The form of a folder with such labels."""
    return _Classes(labels.slots) if isinstance(labels, ClassLabels) else _Texts(labels.units)


@dataclass(frozen=True)
class _Texts:
    units: bool

    def digest(self, dictionary: Path | None) -> str | None:
        return symbols_digest(dictionary)

    def write(
        self,
        folder: Path,
        splits: Sequence[Split],
        provenance: Mapping[str, Any],
        dictionary: Path | None,
    ) -> tuple[AnySplit, ...]:
        write_manifest(folder, splits, provenance, units=self.units, dictionary=dictionary)
        return tuple(splits)

    def read(self, folder: Path, name: str) -> AnySplit:
        return read_split(folder, name)


@dataclass(frozen=True)
class _Classes:
    slots: Slots

    def digest(self, dictionary: Path | None) -> str | None:
        return classes_digest(dictionary)

    def write(
        self,
        folder: Path,
        splits: Sequence[Split],
        provenance: Mapping[str, Any],
        dictionary: Path | None,
    ) -> tuple[AnySplit, ...]:
        """As `Form`; raises UserError also if no clip of a class can be used."""
        labelled = tuple(map(self._labelled, splits))
        used = (u.labels for split in labelled for u in split.utterances)
        for slot, counts in count_classes(self.slots, used).items():
            empty = [name for name, count in counts.items() if not count]
            if empty:
                raise UserError(f"no clip of class {empty[0]!r} of slot {slot!r} can be used")
        write_labelled_manifest(folder, labelled, provenance, dictionary=dictionary)
        return labelled

    def _labelled(self, split: Split) -> LabelledSplit:
        utterances = (
            LabelledUtterance(u.path, u.frames, labels_of(u.text), u.speaker)
            for u in split.utterances
        )
        return LabelledSplit(split.name, split.root, self.slots, tuple(utterances))

    def read(self, folder: Path, name: str) -> AnySplit:
        return read_labelled_split(folder, name)
