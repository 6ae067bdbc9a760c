"""Training runs in processes of their own, each finished once, and several one after the other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Callable, Union

from tqdm import tqdm

from speechprune.errors import UserError
from speechprune.files import write_atomically
from speechprune.masking.mask_set import MaskSet

_UPDATES = re.compile(r'num_updates": "?(\d+)')
_TAIL = 1 << 14
_SECONDS_BETWEEN_LOOKS = 0.5

Tell = Callable[[str], None]


@dataclass(frozen=True)
class TrainingRun:
    """One training run: what `speechprune train` does with ``overrides``, in ``folder``.

    It can be interrupted: started again, it goes on from its last checkpoint.

    Attributes:
        name: for people.
        folder: the run's; its log is ``train.log``.
        config: the recipe's name, such as ``finetuning/base_1h``.
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
    def target(self) -> Path:
        """What tells runs apart."""
        return self.folder

    @property
    def data(self) -> str:
        """The manifest folder, as the overrides say it."""
        found = [o.partition("=")[2] for o in self.overrides if o.startswith("task.data=")]
        return found[-1] if found else ""

    @property
    def is_begun(self) -> bool:
        return self._settings.exists()

    @property
    def is_done(self) -> bool:
        return self._done.exists()

    @property
    def seconds(self) -> float | None:
        """How long training took; None if it was interrupted, or is not done."""
        taken: float | None = (
            json.loads(self._done.read_text())["seconds"] if self.is_done else None
        )
        return taken

    @property
    def updates_done(self) -> int:
        """Updates so far, as the log tells."""
        if self.is_done:
            return self.updates
        log = self.folder / "train.log"
        if not log.exists():
            return 0
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            found = _UPDATES.findall(file.read().decode("utf-8", "replace"))
        return min(int(found[-1]), self.updates) if found else 0

    def finish(self, environment: Mapping[str, str]) -> None:
        """Train, or go on, unless it is done.

        Args:
            environment: variables for the process besides this one's own.

        Raises:
            UserError: the folder is a run with other settings, what it needs or has made is
                missing, or training failed; its log is named.
        """
        self._refuse_other_settings()
        if self.is_done:
            if not self.checkpoint.exists():
                raise UserError(f"{self.checkpoint} is missing; remove {self.folder} to train anew")
            return
        for path in self.needs:
            if not path.exists():
                raise UserError(f"{self.name} needs {path}, which is missing")
        resumed = self.is_begun
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._settings, self._wanted.encode())
        start = time.monotonic()
        self._train(environment)
        seconds = None if resumed else round(time.monotonic() - start, 1)
        write_atomically(self._done, json.dumps({"seconds": seconds}).encode())

    def _train(self, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "speechprune.tools.main", "train"]
        command += ["--config-name", self.config, *self._all_overrides]
        with open(self.folder / "train.log", "a", encoding="utf-8") as log:
            code = subprocess.run(
                command, stdout=log, stderr=log, env={**os.environ, **environment}
            ).returncode
        if code:
            raise UserError(f"{self.name}: training failed; see {self.folder / 'train.log'}")

    def _refuse_other_settings(self) -> None:
        if self.is_begun and self._settings.read_text(encoding="utf-8") != self._wanted:
            raise UserError(
                f"{self.folder} is a run with other settings; name another folder, or remove it"
            )

    @property
    def _all_overrides(self) -> list[str]:
        from speechprune.training.command_line import quoted

        folder = f"hydra.run.dir={quoted(str(self.folder.resolve()))}"
        return [folder, f"optimization.max_update={self.updates}", *self.overrides]

    @property
    def _wanted(self) -> str:
        return json.dumps({"config": self.config, "overrides": self._all_overrides}, indent=2)

    @property
    def _settings(self) -> Path:
        return self.folder / "overrides.json"

    @property
    def _done(self) -> Path:
        return self.folder / "done.json"


@dataclass(frozen=True)
class MaskMaking:
    """A mask made of a checkpoint's weights, by a name in `speechprune.masking.baselines.MAKERS`.

    Attributes:
        name: for people.
        target: the mask file.
        source: the checkpoint.
    """

    name: str
    target: Path
    source: Path
    by: str
    sparsity: float
    seed: int = 0

    @property
    def is_begun(self) -> bool:
        return self.target.exists()

    def finish(self, environment: Mapping[str, str]) -> None:
        """Make the mask, unless it is there.

        Raises:
            UserError: the checkpoint is missing, or is none, or the mask that is there is another.
        """
        from speechprune.baseline_masks import Ranking, made_from

        if not self.source.exists():
            raise UserError(f"{self.name} needs {self.source}, which is missing")
        if not self.is_begun:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            Ranking(self.source, self.by, seed=self.seed).masks(self.sparsity).save(self.target)
            return
        wanted = made_from(self.source, self.by, self.sparsity, self.seed)
        found = MaskSet.load(self.target).provenance
        if not wanted.items() <= found.items():
            raise UserError(f"{self.target} is another mask; name another folder, or remove it")


@dataclass(frozen=True)
class Pooling:
    """Manifest folders of several languages merged into one, with one dictionary.

    Attributes:
        name: for people.
        target: the merged folder.
        folders: what is merged.
    """

    name: str
    target: Path
    folders: tuple[Path, ...]

    @property
    def is_begun(self) -> bool:
        return self.target.exists()

    def finish(self, environment: Mapping[str, str]) -> None:
        """Merge, unless it is done; raises UserError if the folders cannot be merged."""
        from speechprune.manifests.merge import merge

        if not self.is_begun:
            merge(self.target, self.folders, (), overwrite=False)


Step = Union[TrainingRun, MaskMaking, Pooling]


def finish_all(
    plans: Sequence[Sequence[Step]], *, jobs: int = 1, tell: Tell = lambda line: None
) -> None:
    """Do the steps of each plan in order, and what plans share once.

    Args:
        jobs: plans at a time; with more than one, each trains with one thread.
        tell: is told when a step begins.

    Raises:
        UserError: a step failed, or one is missing that a later one was made from.
    """
    for plan in plans:
        _refuse_gaps(plan)
    runs = {s.target: s for plan in plans for s in plan if isinstance(s, TrainingRun)}
    locks = {step.target: Lock() for plan in plans for step in plan}
    environment = {"OMP_NUM_THREADS": "1"} if jobs > 1 else {}
    stopped: list[BaseException] = []

    def finish(plan: Sequence[Step]) -> None:
        for number, step in enumerate(plan, 1):
            with locks[step.target]:
                if stopped:
                    return
                if not step.is_begun or (isinstance(step, TrainingRun) and not step.is_done):
                    tell(f"round {number} of {len(plan)}: {step.name}")
                try:
                    step.finish(environment)
                except BaseException as error:
                    stopped.append(error)
                    raise

    with ThreadPoolExecutor(jobs) as pool:
        finishing = [pool.submit(finish, plan) for plan in plans]
        try:
            _show_progress(list(runs.values()), finishing)
        except BaseException as error:
            stopped.append(error)
            raise
    for future in finishing:
        future.result()


def _refuse_gaps(plan: Sequence[Step]) -> None:
    """A round that is missing cannot be made again: later ones came from the one that was there."""
    begun = [step.is_begun for step in plan]
    for index, step in enumerate(plan):
        if not begun[index] and any(begun[index + 1 :]):
            later = plan[index + 1 + begun[index + 1 :].index(True)]
            raise UserError(
                f"{step.target} ({step.name}) is missing, but {later.target} was made from it; "
                "restore it, or remove what came later"
            )


def _show_progress(runs: Sequence[TrainingRun], finishing: Sequence[Future[None]]) -> None:
    """One bar over the updates of all runs, read off their logs; silent in a log file."""
    total = sum(run.updates for run in runs)
    with tqdm(total=total, unit="update", desc="training", disable=None) as bar:
        pending = set(finishing)
        while pending:
            ended, pending = wait(pending, _SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
            bar.update(sum(run.updates_done for run in runs) - bar.n)
            if any(future.exception() for future in ended):
                return
