"""Recordings that a table lists, with columns of classes: Fluent Speech Commands, VoxCeleb's lists.

Fluent Speech Commands (Lugosch et al., 2019) has a CSV for each split, with the columns path,
speakerId, transcription, action, object and location. VoxCeleb1's `iden_split.txt` (Nagrani et al.,
2017) has a number for the split and a path in each line; the path's first folder is the speaker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Tuple

from speechprune.errors import UserError
from speechprune.manifests.corpora.base import (
    CORPORA,
    SHARES,
    CorpusReader,
    by_option,
    refuse_to_draw,
    seed_option,
    shares_option,
)
from speechprune.manifests.corpus import Clip, Corpus
from speechprune.manifests.drawn_splits import By, draw_splits
from speechprune.manifests.labelled_corpus import labelled_clip, labelled_corpus
from speechprune.manifests.partition import check_shares, parse_shares
from speechprune.manifests.rows import check_split_name
from speechprune.manifests.table_rows import BadRow, Row, Separator, Table, read_table
from speechprune.registry import option, unknown_name

_SPLITS = ("train", "valid", "test")

#: Finds a value of a row, or raises BadRow.
Value = Callable[[Row], str]


@CORPORA.register("table")
@dataclass(frozen=True)
class TableOfClasses(CorpusReader):
    """Recordings and their classes, as a table lists them, CSV or TSV, or a table for each split.

    A column is a name in the table's first line, or its number with --no-header, or path:N for the
    Nth part of the recording's path: path:1 is its first folder, path:-2 its last.
    """

    table: Optional[Path] = option("A table of all splits.", None)
    train: Optional[Path] = option("A table of the train split.", None)
    valid: Optional[Path] = option("A table of the valid split.", None)
    test: Optional[Path] = option("A table of the test split.", None)
    label_columns: Tuple[str, ...] = option(
        "Column of the classes of a slot, which is called like it, or as SLOT=COLUMN says; "
        "repeatable, in the order of the slots.",
        (),
        flag="--label-column",
        metavar="COLUMN",
    )
    path_column: str = option(
        "Column of the paths, which start from FOLDER.", "path", metavar="COLUMN"
    )
    speaker_column: str = option("Column of the speakers, if there is one.", "", metavar="COLUMN")
    split_column: str = option(
        "Column of the splits in --table; without it, splits are drawn.", "", metavar="COLUMN"
    )
    renamed: Tuple[str, ...] = option(
        "Name of a split that the table calls otherwise, such as 1=train, repeatable.",
        (),
        flag="--split",
        metavar="VALUE=SPLIT",
    )
    separator: Separator = option(
        "What parts columns; auto takes comma for .csv, tab for .tsv and blank for .txt.", "auto"
    )
    no_header: bool = option("The first line has no names: columns are numbered from 1.", False)
    shares: Optional[str] = shares_option()
    by: Optional[By] = by_option()
    seed: int = seed_option()
    language: str = option("ISO code of the language, if there is one.", "")

    def read(self, folder: Path) -> Corpus:
        """The recordings that the tables list, in the splits that they say, or drawn.

        Rows that are too short, or empty where a value is needed, are clips that cannot be used.

        Raises:
            UserError: options contradict each other, a table or column is missing, a class cannot
                be a label, or as `draw_splits` and `labelled_corpus`.
        """
        root = folder.absolute()
        tables = self._tables(root)
        slots = self._slots(root)
        renamed = self._renamed()
        drawn = self.table is not None and not self.split_column
        if not drawn:
            said = "their column" if self.split_column else "tables of their own"
            refuse_to_draw(self.shares, self.by, f"these splits have {said}")
        splits: dict[str, list[Clip]] = {}
        unread: list[tuple[str, str, str]] = []
        for name, path in tables.items():
            table = read_table(path, self.separator, header=not self.no_header)
            columns = self._columns(table, slots)
            found, problems = _by_split(columns, root, name, renamed)
            unread += problems
            for split, clips in found.items():
                splits.setdefault(split, []).extend(clips)
        shared = self.speaker_column in slots.values()
        if drawn:
            splits, shared = self._draw(splits["train"])
        return labelled_corpus(
            "table",
            self.language,
            root,
            splits,
            list(slots),
            options=self._asked(tables, slots, drawn),
            shared_speakers=shared,
            unread=unread,
        )

    def _tables(self, root: Path) -> dict[str, Path]:
        """The tables by split; the one table of all splits as if it was that of training."""
        of_splits = zip(_SPLITS, (self.train, self.valid, self.test))
        given = {name: path for name, path in of_splits if path is not None}
        if (self.table is None) == (not given):
            raise UserError(
                f"which table lists the recordings in {root}? Give --table, or one of --train, "
                "--valid and --test for each split"
            )
        if given and self.split_column:
            raise UserError("--split-column is for --table alone; leave it out")
        return given if self.table is None else {"train": self.table}

    def _slots(self, root: Path) -> dict[str, str]:
        """Columns of classes by slot."""
        slots: dict[str, str] = {}
        for text in self.label_columns:
            slot, _, column = text.rpartition("=")
            if (slot or column) in slots:
                raise UserError(f"two slots are called {slot or column!r}; choose another name")
            slots[slot or column] = column
        if not slots:
            raise UserError(f"which column has the classes of {root}? Give --label-column")
        return slots

    def _columns(self, table: Table, slots: Mapping[str, str]) -> _Columns:
        def column(name: str) -> Value:
            return table.column(name, self.path_column)

        return _Columns(
            table,
            column(self.path_column),
            [column(name) for name in slots.values()],
            column(self.speaker_column) if self.speaker_column else None,
            column(self.split_column) if self.split_column else None,
        )

    def _renamed(self) -> dict[str, str]:
        renamed = {}
        for text in self.renamed:
            value, separator, name = text.rpartition("=")
            if not separator:
                raise UserError(f"--split {text}: expected VALUE=SPLIT, such as 1=train")
            check_split_name(name)
            if value in renamed:
                raise UserError(f"--split gives {value!r} two names; leave one out")
            renamed[value] = name
        if renamed and not self.split_column:
            raise UserError(f"--split {self.renamed[0]} has no effect without --split-column")
        return renamed

    def _draw(self, clips: Sequence[Clip]) -> tuple[dict[str, list[Clip]], bool]:
        """The splits, and whether they share speakers; unusable clips go to the first."""
        by = self.by or ("speaker" if self.speaker_column else "utterance")
        shares = parse_shares("--shares", self.shares or SHARES)
        check_shares("--shares", shares)
        good = [clip for clip in clips if not clip.problem]
        splits = draw_splits(good, shares, by, self.seed)
        splits[next(iter(shares))] += [clip for clip in clips if clip.problem]
        return splits, by == "utterance"

    def _asked(self, tables: dict[str, Path], slots: dict[str, str], drawn: bool) -> dict[str, Any]:
        """What the provenance keeps of the options."""
        asked: dict[str, Any] = {
            "tables": {name: path.name for name, path in tables.items()},
            "slots": slots,
            "split_column": self.split_column,
        }
        if drawn:
            asked.update(shares=self.shares or SHARES, by=self.by, seed=self.seed)
        return asked


@dataclass(frozen=True)
class _Columns:
    """What finds the values of a row; `speaker` and `split` are None where there is no column."""

    table: Table
    path: Value
    labels: Sequence[Value]
    speaker: Optional[Value]
    split: Optional[Value]

    def clip(self, row: Row, root: Path) -> Clip:
        """The clip of a row. Raises UserError for a class that cannot be a label."""
        try:
            source = os.path.relpath(root / self.path(row), root)
            labels = [find(row) for find in self.labels]
        except BadRow as problem:
            return Clip.unusable(self.place(row), str(problem))
        try:
            return labelled_clip(source, labels, self._speaker(row))
        except UserError as error:
            raise UserError(f"{self.table.path} line {row.number}: {error}") from None

    def _speaker(self, row: Row) -> str:
        try:
            return self.speaker(row) if self.speaker else ""
        except BadRow:  # nobody knows
            return ""

    def place(self, row: Row) -> str:
        """What a row is called that names no recording."""
        return f"{self.table.path.name} line {row.number}"


def _by_split(
    columns: _Columns, root: Path, default: str, renamed: Mapping[str, str]
) -> tuple[dict[str, list[Clip]], list[tuple[str, str, str]]]:
    """Clips by split, and the rows of which nobody knows the split, as `Corpus.unread`."""
    clips: dict[str, list[Clip]] = {}
    values: set[str] = set()
    unread = []
    for row in columns.table.rows:
        try:
            value = default if columns.split is None else columns.split(row)
        except BadRow as problem:
            unread.append((columns.table.path.name, columns.place(row), str(problem)))
            continue
        values.add(value)
        clips.setdefault(renamed.get(value, value), []).append(columns.clip(row, root))
    for value in renamed:
        if value not in values:
            called = unknown_name("split", value, sorted(values))
            raise UserError(f"--split {value}={renamed[value]}: {columns.table.path}: {called}")
    for name in clips:
        check_split_name(name)
    return clips, unread
