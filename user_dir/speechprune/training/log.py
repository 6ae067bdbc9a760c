"""What the log of a training says: the JSON that fairseq writes of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechprune.errors import UserError

#: Where runs log, the better place first: what hydra writes, and what `TrainingRun` does.
NAMES = ("hydra_train.log", "train.log")
#: fairseq's name for what it logs within an epoch, and at its end.
_WITHIN, _EPOCH = "train_inner", "train"
#: A record as hydra logs it, and as fairseq-train does: of what it is, and JSON.
_RECORD = re.compile(rb'(?:\[([\w.-]+)\]\[INFO\] - |\| INFO \| ([\w.-]+) \| )(\{(?:".*)?)$')
#: Longer lines are no records.
_LONGEST = 1 << 16

Curve = dict[int, float]


@dataclass(frozen=True)
class TrainingLog:
    """Numbers over the updates of a training.

    Where a run was interrupted and went on, what was logged last of an update counts.

    Attributes:
        path: of the log.
        trained: by name, such as "loss" or "density": the value at each update that was logged.
        validated: the same of each validation split, by its name.
        damaged: lines that should be records, but cannot be read.
        not_finite: values that are NaN or infinite, which are left out.
    """

    path: Path
    trained: Mapping[str, Curve]
    validated: Mapping[str, Mapping[str, Curve]]
    damaged: int
    not_finite: int

    @property
    def updates(self) -> int:
        """The last update that was logged; 0 of an empty log."""
        return max((max(curve) for curve in self.trained.values()), default=0)


@dataclass
class _Reading:
    trained: dict[str, Curve] = field(default_factory=dict)
    validated: dict[str, dict[str, Curve]] = field(default_factory=dict)
    damaged: int = 0
    not_finite: int = 0

    def take(self, line: bytes) -> None:
        """Add what a line says, if it is a record."""
        found = _RECORD.search(line) if len(line) <= _LONGEST else None
        if found is None:
            return
        kind = (found[1] or found[2]).decode()
        try:
            record = json.loads(found[3])
            if kind == _WITHIN:
                self._add(self.trained, record, "")
            elif kind != _EPOCH and f"{kind}_num_updates" in record:
                self._add(self.validated.setdefault(kind, {}), record, f"{kind}_")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.damaged += 1

    def _add(self, curves: dict[str, Curve], record: dict[str, Any], prefix: str) -> None:
        update = int(record[f"{prefix}num_updates"])
        for key, shown in record.items():
            value = _number(shown)
            if not key.startswith(prefix) or value is None:
                continue
            if math.isfinite(value):
                curves.setdefault(key[len(prefix) :], {})[update] = value
            else:
                self.not_finite += 1


def read_log(folder: Path) -> TrainingLog | None:
    """The log of a run, the first of `NAMES` that holds a record; None if there is none.

    Args:
        folder: the run's.

    Raises:
        UserError: a log is there, but cannot be read.
    """
    empty = None
    for path in (folder / name for name in NAMES):
        if not path.is_file():
            continue
        reading = _Reading()
        try:
            with open(path, "rb") as file:
                while line := file.readline(_LONGEST + 1):
                    reading.take(line.rstrip())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        log = TrainingLog(
            path,
            {name: dict(sorted(curve.items())) for name, curve in reading.trained.items()},
            {
                split: {name: dict(sorted(curve.items())) for name, curve in curves.items()}
                for split, curves in reading.validated.items()
            },
            reading.damaged,
            reading.not_finite,
        )
        if log.trained or log.validated:
            return log
        empty = empty or log
    return empty


def _number(shown: object) -> float | None:
    """A value of a record, which fairseq writes as text; None for what is no number."""
    if isinstance(shown, bool) or not isinstance(shown, (str, int, float)):
        return None
    try:
        return float(shown)
    except (ValueError, OverflowError):
        return None
