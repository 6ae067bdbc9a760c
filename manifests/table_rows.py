"""Tables of recordings, as CSV, TSV or words parted by blanks; what is in which column.

A column goes by its name in the first line, or in a table without such a line by its number from 1.
`path:N` stands for the Nth part of a recording's path, such as its first folder; negative numbers
count from the end, where `path:-1` is the file.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechprune.errors import UserError
from speechprune.manifests.lines import open_text
from speechprune.registry import unknown_name

#: What parts columns; auto goes by the file's ending.
Separator = Literal["auto", "comma", "tab", "blank"]

_PART = re.compile(r"path:(-?[1-9]\d{0,2})")
_BY_ENDING: dict[str, Separator] = {".csv": "comma", ".tsv": "tab", ".txt": "blank"}


class BadRow(ValueError):
    """Why a row cannot be used: what follows "which"."""


@dataclass(frozen=True)
class Row:
    """A row and the number of its line, counted from 1."""

    number: int
    fields: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of a file.

    Attributes:
        names: of the columns; their numbers where the file has no line of names.
    """

    path: Path
    names: Sequence[str]
    rows: Sequence[Row]

    def column(self, name: str, path_column: str) -> Callable[[Row], str]:
        """What finds the value of a column in a row, or raises BadRow where it is empty.

        Args:
            path_column: where the paths are that `path:N` is taken of.

        Raises:
            UserError: there is no such column, or there are several.
        """
        part = _PART.fullmatch(name)
        whole = self._field(path_column if part else name)
        if part is None:
            return whole
        number = int(part[1])
        index = number - 1 if number > 0 else number

        def part_of_path(row: Row) -> str:
            parts = os.path.normpath(whole(row)).strip("/").split("/")
            if not -len(parts) <= index < len(parts):
                raise BadRow(f"has a path of {len(parts)} part(s), not that of {name}")
            return parts[index]

        return part_of_path

    def _field(self, name: str) -> Callable[[Row], str]:
        if name not in self.names:
            raise UserError(f"{self.path}: {unknown_name('column', name, list(self.names))}")
        if self.names.count(name) > 1:
            raise UserError(
                f"{self.path}: {self.names.count(name)} columns are called {name!r}; rename one"
            )
        place = self.names.index(name)

        def field(row: Row) -> str:
            if len(row.fields) != len(self.names):
                raise BadRow(f"has {len(row.fields)} column(s), not {len(self.names)}")
            value = row.fields[place].strip()
            if not value:
                raise BadRow(f"has nothing in column {name!r}")
            return value

        return field


def read_table(path: Path, separator: Separator = "auto", *, header: bool = True) -> Table:
    """All rows of a table but those that are blank.

    Args:
        header: the first line has the names of the columns.

    Raises:
        UserError: the file is missing, not text, empty, or has quotes that do not end.
    """
    if separator == "auto":
        separator = _BY_ENDING.get(path.suffix.lower(), "comma")
    rows = [row for row in _rows(path, separator) if any(map(str.strip, row.fields))]
    if len(rows) <= header:
        raise UserError(f"{path} has no row")
    first = rows[0].fields
    if header:
        return Table(path, [name.strip() for name in first], rows[1:])
    return Table(path, [str(number) for number, _ in enumerate(first, start=1)], rows)


def _rows(path: Path, separator: Separator) -> Iterator[Row]:
    with open_text(path, "" if separator == "comma" else "\n", "name a table") as file:
        if separator != "comma":
            for number, line in enumerate(file, start=1):
                plain = line.rstrip("\r\n")
                yield Row(number, plain.split("\t") if separator == "tab" else plain.split())
            return
        # Strict: a quote that does not end would swallow the rest of the file.
        reader = csv.reader(file, strict=True)
        try:
            for fields in reader:
                yield Row(reader.line_num, fields)
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num}: {error}; correct it") from None
