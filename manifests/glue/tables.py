"""GLUE's tables: columns parted by tabs, rows by line feeds, and quotation marks that are text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.glue.tasks import (
    TASKS,
    TextTask,
    check_task_name,
    task_of_header,
)
from speechprune.manifests.lines import open_text
from speechprune.registry import unknown_name


@dataclass(frozen=True)
class Table:
    """The rows of a file, with the numbers of their lines, counted from 1."""

    path: Path
    names: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str]]]

    def column(self, name: str) -> int:
        """The place of a column; raises UserError, with the nearest name, if there is none."""
        if name not in self.names:
            raise UserError(f"{self.path}: {unknown_name('column', name, list(self.names))}")
        return self.names.index(name)


@dataclass(frozen=True)
class TextSplit:
    """The examples of a split.

    Attributes:
        texts: N sentences of each of the task's inputs.
        labels: N classes or scores as they were written; None in a test set without them.
        left_out: (line of the table, why) of rows that cannot be used, in order.
    """

    name: str
    texts: tuple[Sequence[str], ...]
    labels: Sequence[str] | None
    left_out: Sequence[tuple[int, str]]

    def __len__(self) -> int:
        return len(self.texts[0])


@dataclass(frozen=True)
class TextCorpus:
    """A task with its splits, the first of them for training; and a digest of all its tables."""

    task: TextTask
    splits: Sequence[TextSplit]
    digest: str


def read_corpus(folder: Path, name: str) -> TextCorpus:
    """The task called `name`: one of GLUE's, or one of one's own in their layout.

    Args:
        folder: with the tables, or with a folder of that name that has them.

    Raises:
        UserError: the folder or the table of a split but a test is missing or malformed, a row of a
            test without labels cannot be used, a label is unknown, or a class has no example.
    """
    check_task_name(name)
    folder = task_folder(folder, name)
    task = TASKS[name] if name in TASKS else _own_task(folder, name)
    splits, digest = [], hashlib.sha256()
    for split, stem in task.tables.items():
        path = folder / f"{stem}.tsv"
        if split.startswith("test") and not path.exists():
            continue
        headless = () if split.startswith("test") else task.headless
        splits.append(_read_split(split, read_table(path, headless), task))
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    _refuse_empty_class(folder, task, splits[0])
    return TextCorpus(task, splits, digest.hexdigest())


def task_folder(folder: Path, name: str) -> Path:
    """The folder with the tables of a task: the one of its name in `folder`, or `folder` itself.

    Raises UserError if neither has any.
    """
    for place in (folder / name, folder):
        if (place / "train.tsv").is_file():
            return place
    raise UserError(
        f"{folder / name / 'train.tsv'} is missing; name the folder that holds {name}, as "
        "download_glue_data.py writes it"
    )


def read_table(path: Path, headless: Sequence[str] = ()) -> Table:
    """A table.

    Args:
        headless: names of the columns, if the first line has none.

    Raises:
        UserError: it is missing, not text, or empty.
    """
    with open_text(path, newline="\n", hint="download it again") as file:
        lines = [line.rstrip("\r\n") for line in file]
    while lines and not lines[-1]:
        lines.pop()
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, start=1)]
    names = list(headless) if headless or not rows else rows.pop(0)[1]
    if not rows:
        raise UserError(f"{path} has no rows; download it again")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path} has two columns {twice[0]!r}; rename one")
    return Table(path, names, rows)


def _own_task(folder: Path, name: str) -> TextTask:
    table = read_table(folder / "train.tsv")
    labels: list[str] = []
    if "label" in table.names:
        at = table.column("label")
        labels = [row[at].strip() for _, row in table.rows if len(row) == len(table.names)]
    return task_of_header(name, table.names, labels)


def _read_split(split: str, table: Table, task: TextTask) -> TextSplit:
    inputs = [table.column(name) for name in task.inputs]
    labelled = not split.startswith("test") or task.label in table.names
    label = table.column(task.label) if labelled else None
    used, left_out = [], []
    for number, row in table.rows:
        if len(row) == len(table.names):
            used.append((number, row))
        else:
            left_out.append((number, f"has {len(row)} columns, not {len(table.names)}"))
    if left_out and not labelled:
        number, reason = left_out[0]
        raise UserError(
            f"{table.path} line {number} {reason}; a test set without labels is used as a whole, "
            "or its predictions would not belong to its rows"
        )
    if not used:
        raise UserError(f"{table.path} line {left_out[0][0]} {left_out[0][1]}, as all rows")
    texts = tuple([row[place] for _, row in used] for place in inputs)
    labels = None
    if label is not None:
        labels = [_checked(row[label].strip(), table.path, number, task) for number, row in used]
    return TextSplit(split, texts, labels, left_out)


def _checked(label: str, path: Path, number: int, task: TextTask) -> str:
    """A class or score; raises UserError unless the task has it."""
    where = f"{path} line {number}: {task.label} {label!r}"
    if not task.has_scores:
        if label not in task.classes:
            raise UserError(f"{where} is not one of the classes {', '.join(task.classes)}")
        return label
    try:
        score = float(label)
    except ValueError:
        raise UserError(f"{where} is not a number") from None
    if not math.isfinite(score):
        raise UserError(f"{where} is not a finite number")
    low, high = task.bounds or (-math.inf, math.inf)
    if not low <= score <= high:
        raise UserError(f"{where} is not a number from {low:g} to {high:g}")
    return label


def _refuse_empty_class(folder: Path, task: TextTask, train: TextSplit) -> None:
    empty = sorted(set(task.classes) - set(train.labels or ()))
    if empty:
        raise UserError(f"no row of {folder / 'train.tsv'} is of class {empty[0]!r}")
