"""What a bank holds, and what it saves beside a model for each task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from speechprune.bank.bank import Bank
from speechprune.bank.task import ErrorRate
from speechprune.errors import UserError
from speechprune.state_names import encoder_tensors
from speechprune.tables import table

#: How the saving comes about.
FORMULA = "1 - bank / (tasks x model + heads)"


@dataclass(frozen=True)
class TaskReport:
    """One task of a bank.

    Attributes:
        kind: of its outputs: letters, units or labels.
        labels: how many outputs there are, without fairseq's own; None if that is not known.
        density: share of the masked weights that is kept.
        mask_bytes: what its masks take in the file.
        entropy_bytes: what they would take as they are, at the least, if entries are independent.
        own_bytes: what its own tensors take.
        head_bytes: of these, what the shared model has nothing of: a model of its own has it too.
        told_by: the task by whose masks its own are stored; None if they are stored as they are.
    """

    name: str
    kind: str
    labels: int | None
    density: float
    mask_bytes: int
    entropy_bytes: int
    own_bytes: int
    head_bytes: int
    error_rate: ErrorRate | None
    told_by: str | None

    @classmethod
    def of(cls, bank: Bank, name: str) -> TaskReport:
        """The report of a task; raises UserError if it is damaged."""
        task, sizes = bank.task(name), bank.sizes(name)
        try:
            rate = task.about.get("error_rate")
            error_rate = None if rate is None else ErrorRate.of(rate)
            labels = _fact(task.about, "labels", int)
            kind = _fact(task.about, "kind", str) or "unknown"
        except UserError as error:
            raise UserError(f"{bank.path}: the task {name!r} is damaged: {error}") from error
        trained = [a for key, a in encoder_tensors(task.own).items() if key in bank.base]
        return cls(
            name,
            kind,
            labels,
            task.masks.density,
            sizes.masks,
            round(task.entropy_bytes),
            sizes.own,
            sizes.own - sum(array.nbytes for array in trained),
            error_rate,
            bank.beside(name),
        )


@dataclass(frozen=True)
class BankReport:
    """A bank, against as many separate models.

    Attributes:
        base_bytes: of the shared weights.
        file_bytes: of the whole file.
    """

    base_bytes: int
    file_bytes: int
    tasks: tuple[TaskReport, ...]

    @classmethod
    def of(cls, bank: Bank) -> BankReport:
        """The report of a bank; raises UserError if a task is damaged."""
        base = sum(map(bank.base.nbytes, bank.base))
        tasks = tuple(TaskReport.of(bank, name) for name in bank.names)
        return cls(base, bank.path.stat().st_size, tasks)

    @property
    def task_bytes(self) -> int:
        """What all tasks take, with what the file says of them."""
        return self.file_bytes - self.base_bytes

    @property
    def separate_bytes(self) -> int:
        """What a model for each task takes: all weights, and its head."""
        return sum(self.base_bytes + task.head_bytes for task in self.tasks)

    @property
    def saving(self) -> float | None:
        """The share that the bank saves of separate models; None without tasks."""
        return 1 - self.file_bytes / self.separate_bytes if self.tasks else None

    @property
    def share(self) -> float | None:
        """What a task takes of what the shared model takes, in the mean; None without tasks."""
        return self.task_bytes / len(self.tasks) / self.base_bytes if self.tasks else None

    def saving_at(self, tasks: int) -> float:
        """The share that a bank of so many tasks would save, if each took as much as these do in
        the mean: 1 - (1 + T x) / T of T tasks that each take the share x of the model."""
        return 1 - (1 + tasks * (self.share or 0.0)) / tasks

    def describe(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "tasks": [asdict(task) for task in self.tasks],
            "base_bytes": self.base_bytes,
            "task_bytes": self.task_bytes,
            "file_bytes": self.file_bytes,
            "separate_bytes": self.separate_bytes,
            "saving": self.saving,
            "formula": FORMULA,
        }

    def describe_in_words(self) -> str:
        """A line for each task, and the totals."""
        count = len(self.tasks)
        totals = [
            ("shared model", f"{self.base_bytes:,} bytes"),
            (f"{count} tasks" if count != 1 else "1 task", f"{self.task_bytes:,} bytes"),
        ]
        if self.saving is not None:
            totals += [
                ("bank", f"{self.file_bytes:,} bytes"),
                ("separate models", f"{self.separate_bytes:,} bytes"),
                ("saving", f"{100 * self.saving:.1f} %, {FORMULA}"),
            ]
        lines = "\n".join(f"{name:<15}  {text}" for name, text in totals)
        return f"{table([_HEADER, *map(_row, self.tasks)])}\n\n{lines}" if self.tasks else lines


_HEADER = (
    *("task", "outputs", "labels", "density", "mask bytes", "entropy", "own bytes"),
    *("error rate", "stored beside"),
)


def _row(task: TaskReport) -> tuple[str, ...]:
    rate = task.error_rate
    return (
        task.name,
        task.kind,
        "" if task.labels is None else str(task.labels),
        f"{task.density:.4f}",
        f"{task.mask_bytes:,}",
        f"{task.entropy_bytes:,}",
        f"{task.own_bytes:,}",
        "" if rate is None else f"{rate.name} {rate.percent:.2f} %",
        task.told_by or "",
    )


def _fact(about: Mapping[str, Any], key: str, kind: type) -> Any:
    value = about.get(key)
    if value is not None and not isinstance(value, kind):
        raise UserError(f"its {key} cannot be {json.dumps(value)[:50]}")
    return value
