"""A training run in a process of its own, finished once."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune.checksums import read_json, write_json
from speechprune.ending import run_child
from speechprune.errors import UserError
from speechprune.locks import locked
from speechprune.made_with import refuse_other_settings
from speechprune.training.inputs import (
    SPLITS,
    Inputs,
    begun_with,
    by_name,
    inputs_of,
    refuse_other_inputs,
)
from speechprune.training.overrides import key_of, quoted, value_of

#: What a run was started with, and what it came to; files in its folder.
SETTINGS, DONE = "overrides.json", "done.json"
#: The key in the settings of what tells apart what the run has read.
INPUTS = "inputs"

_UPDATES = re.compile(r'num_updates": "?(\d+)')
_ERROR = re.compile(r"^speechprune: error: (.*)$", re.MULTILINE)
_TAIL = 1 << 14


@dataclass(frozen=True)
class TrainingRun:
    """One training run: what `speechprune train` does with ``overrides``, in ``folder``.

    It can be interrupted: started again, it goes on from its last checkpoint.

    Attributes:
        name: for people.
        folder: the run's; its log is ``train.log``.
        config: its name, such as ``finetuning/base_1h``.
        overrides: hydra's.
        updates: where training ends.
        needs: files that have to exist before it starts.
    """

    name: str
    folder: Path
    config: str
    overrides: tuple[str, ...]
    updates: int
    needs: tuple[Path, ...] = ()

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.folder / "checkpoints" / "checkpoint_last.pt"

    @property
    def log(self) -> Path:
        """What its process prints."""
        return self.folder / "train.log"

    @property
    def makes(self) -> Path:
        """What later rounds need."""
        return self.checkpoint

    @property
    def target(self) -> Path:
        """What tells steps apart."""
        return self.folder

    @property
    def data(self) -> str:
        """The manifest folder, as the overrides say it."""
        found = [o.partition("=")[2] for o in self.overrides if o.startswith("task.data=")]
        return found[-1] if found else ""

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on from."""
        return self.is_done or self.checkpoint.exists()

    @property
    def is_done(self) -> bool:
        """Whether training has ended."""
        return self._done.exists()

    @property
    def seconds(self) -> float | None:
        """How long training took, all parts of an interrupted one; None if it is not done, or a
        part was not timed."""
        taken = read_json(self._done).get("seconds") if self.is_done else None
        return float(taken) if isinstance(taken, (int, float)) else None

    @property
    def updates_done(self) -> int:
        """Updates so far, as the log tells."""
        if self.is_done:
            return self.updates
        found = _UPDATES.findall(self._end_of_log())
        return min(int(found[-1]), self.updates) if found else 0

    def finish(self, environment: Mapping[str, str]) -> None:
        """Train, or go on, unless it is done.

        Args:
            environment: variables for the process besides this one's own.

        Raises:
            UserError: the folder is a run with other settings or in use, what the run needs or has
                made is missing, or training failed.
        """
        if self.is_begun:
            self._refuse_other_settings()
        if self.is_done:
            self._refuse_lost_checkpoint(f"remove {self.folder} to train anew")
            return
        for path in self.needs:
            if not path.exists():
                raise UserError(f"{self.name} needs {path}, which is missing")
        with locked(self.folder) as lock:
            write_json(self._settings, {**self._wanted, INPUTS: self._read_so_far()})
            before, start = self._seconds_so_far(), time.monotonic()
            write_json(self._part, {"seconds_before": before, "began": time.time()})
            self._train(environment, lock)
            taken = None if before is None else round(before + time.monotonic() - start, 1)
            self._refuse_lost_checkpoint(f"see {self.log}")
            write_json(self._done, {"seconds": taken})

    def _train(self, environment: Mapping[str, str], lock: int) -> None:
        command = [sys.executable, "-m", "speechprune.tools.main", "train"]
        command += ["--config-name", self.config, *self.all_overrides]
        with open(self.log, "a", encoding="utf-8") as log:
            begin = self.log.stat().st_size
            # The lock stays taken until training ends, even if this process is killed.
            code = run_child(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                pass_fds=(lock,),
            )
        if code:
            # What earlier attempts failed of is above.
            reasons = _ERROR.findall(self._end_of_log(begin))
            reason = f" ({reasons[-1]})" if reasons else ""
            raise UserError(f"{self.name}: training failed{reason}; see {self.log}")

    def _refuse_other_settings(self) -> None:
        """Raise UserError, with the keys that differ, if what is in the folder is another run."""
        try:
            noted = read_json(self._settings, "restore it")
            before, read_then = _by_key(noted), noted.get(INPUTS, {})
            by_name(read_then)  # raises for what is none
        except (UserError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self._settings} does not tell what {self.folder} was trained with ({error}); "
                "name another folder"
            ) from error
        refuse_other_settings(
            self.folder,
            before,
            _by_key(self._wanted),
            "name another folder, or continue with those settings",
        )
        refuse_other_inputs(self.folder, read_then, self._inputs)

    def _seconds_so_far(self) -> float | None:
        """Of the parts before this one, each until its last words; None if nothing tells them."""
        if not self.is_begun:
            return 0.0
        try:
            part = read_json(self._part)
            seconds = self.log.stat().st_mtime - part["began"]
            return float(part["seconds_before"]) + max(0.0, seconds)
        except (OSError, UserError, ValueError, KeyError, TypeError):
            return None

    def _refuse_lost_checkpoint(self, advice: str) -> None:
        if not self.checkpoint.exists():
            raise UserError(f"{self.checkpoint} is missing; {advice}")

    def _end_of_log(self, begin: int = 0) -> str:
        """The last of what the log has, in bytes, from ``begin`` on."""
        if not self.log.exists():
            return ""
        with open(self.log, "rb") as file:
            file.seek(max(begin, self.log.stat().st_size - _TAIL))
            return file.read().decode("utf-8", "replace")

    @property
    def all_overrides(self) -> list[str]:
        """What is given to hydra."""
        folder = f"hydra.run.dir={quoted(str(self.folder.resolve()))}"
        return [folder, f"optimization.max_update={self.updates}", *self.overrides]

    @property
    def _wanted(self) -> dict[str, Any]:
        return {"config": self.config, "overrides": self.all_overrides, INPUTS: self._inputs}

    @property
    def _inputs(self) -> Inputs:
        return inputs_of(self.config, self.all_overrides)

    def _read_so_far(self) -> Inputs:
        """What the run reads, or has read since it began; empty for one of an earlier version, of
        which nobody knows that."""
        if not self.is_begun:
            return self._inputs
        noted: Inputs = read_json(self._settings).get(INPUTS, {})
        return begun_with(noted, self._inputs) if noted else {}

    @property
    def _settings(self) -> Path:
        return self.folder / SETTINGS

    @property
    def _part(self) -> Path:
        return self.folder / "part.json"

    @property
    def _done(self) -> Path:
        return self.folder / DONE


def _by_key(settings: Mapping[str, Any]) -> dict[str, str]:
    """What a run was started with: the config, and the last value of each override."""
    values = {key_of(override): value_of(override) for override in settings["overrides"]}
    return {"--config-name": settings["config"], **values}


def splits_read(folder: Path) -> dict[str, str]:
    """What the subsets of data were when a run began, by name, as `split_digest` tells them
    apart; empty if nothing in its folder says so."""
    path = folder / SETTINGS
    try:
        found = read_json(path)[INPUTS][SPLITS] if path.exists() else {}
        return {str(subset): str(told) for subset, told in found.items()}
    except (UserError, KeyError, TypeError, AttributeError):
        return {}
