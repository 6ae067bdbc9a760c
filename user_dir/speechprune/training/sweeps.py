"""The jobs of a sweep: what came of each, in whatever process a launcher has run it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from speechprune.errors import UserError
from speechprune.training.failures import user_message


@dataclass
class Outcomes:
    """What came of the jobs so far, by number: a value, or why there is none."""

    by_job: dict[int, float | Exception] = field(default_factory=dict)

    @property
    def values(self) -> list[float]:
        """Those of the jobs that ended well, in order."""
        found = [self.by_job[number] for number in sorted(self.by_job)]
        return [value for value in found if not isinstance(value, Exception)]

    @property
    def failures(self) -> dict[int, Exception]:
        """By number, in order."""
        numbers = sorted(self.by_job)
        return {n: e for n in numbers if isinstance(e := self.by_job[n], Exception)}

    def refuse_failures(self) -> None:
        """Raise the first failure, if there is one: a UserError says how many jobs failed."""
        if not self.failures:
            return
        number, error = next(iter(self.failures.items()))
        message = user_message(error)
        if message is None:
            raise error
        jobs = ", ".join(map(str, self.failures))
        raise UserError(
            f"of {len(self.by_job)} jobs of the sweep these failed: {jobs}; job {number}: {message}"
        ) from error


@contextmanager
def noting_outcomes() -> Iterator[Outcomes]:
    """Collect what comes of jobs that a sweeper starts in the block: it may keep the values to
    itself, and jobs of other processes know nothing of this one."""
    outcomes = Outcomes()
    instantiate = Plugins.instantiate_launcher

    def instantiate_and_note(self: Plugins, *args: Any, **options: Any) -> Launcher:
        config = options["config"]
        refuse_hidden_gpus(config)
        check_direction(config)
        sweeper = str(config.hydra.sweeper.get("_target_"))
        goes_on = sweeper.endswith(".BasicSweeper")
        return _Noting(instantiate(self, *args, **options), outcomes, goes_on=goes_on)

    Plugins.instantiate_launcher = instantiate_and_note  # type: ignore[method-assign]
    try:
        yield outcomes
    finally:
        Plugins.instantiate_launcher = instantiate  # type: ignore[method-assign]


class _Noting(Launcher):
    """A launcher around the one that is asked for, which goes to other processes as it is."""

    def __init__(self, launcher: Launcher, outcomes: Outcomes, *, goes_on: bool) -> None:
        self._launcher, self._outcomes, self._goes_on = launcher, outcomes, goes_on

    def setup(self, **settings: Any) -> None:
        self._launcher.setup(**settings)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        try:
            returned = self._launcher.launch(job_overrides, initial_job_idx)
        except (HydraException, UserError):
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise UserError(
                f"the launcher of the sweep failed, or lost a job: {reason.strip()}; its logs are "
                "in .submitit in the folder of the sweep; the same command goes on with what is "
                "there"
            ) from error
        for number, job in enumerate(returned, initial_job_idx):
            # The property raises what the job raised, and hydra 1.0 raises it before.
            found: dict[str, Any] = vars(job)
            key = "_return_value" if "_return_value" in found else "return_value"
            self._outcomes.by_job[number] = found[key]
            if self._goes_on and isinstance(found[key], Exception):
                # hydra's own sweeper would end with the first batch in which a job failed.
                job.status, job.return_value = JobStatus.COMPLETED, math.inf
        return returned


def refuse_hidden_gpus(config: DictConfig) -> None:
    """Refuse to train without the GPUs of this machine only because nobody asked for one: submitit
    hides them from local jobs.

    Args:
        config: as hydra composed it, with its own settings.

    Raises:
        UserError: with the setting that asks for GPUs.
    """
    launcher = config.hydra.launcher
    is_local = str(launcher.get("_target_")).endswith(".LocalLauncher")
    if is_local and launcher.gpus_per_node is None and not config.common.get("cpu"):
        if torch.cuda.device_count():
            raise UserError(
                "the jobs of submitit_local see no GPU: set hydra.launcher.gpus_per_node=1, "
                "or common.cpu=true to train without"
            )


def check_direction(config: DictConfig) -> None:
    """Refuse a sweeper that looks for the worst value.

    Args:
        config: as hydra composed it, with its own settings; only sweepers with a ``direction``, as
            Optuna's has, say which values are good.

    Raises:
        UserError: the direction is the other one.
    """
    direction = config.hydra.sweeper.get("direction")
    settings = config.get("checkpoint") or {}
    maximizes = bool(settings.get("maximize_best_checkpoint_metric"))
    metric = settings.get("best_checkpoint_metric", "loss")
    wanted = "maximize" if maximizes else "minimize"
    found = getattr(direction, "name", direction)
    if direction is not None and found != wanted:
        better = "larger" if maximizes else "smaller"
        raise UserError(
            f"a {better} {metric} is better: set hydra.sweeper.direction={wanted} (which is "
            f"{found})"
        )


def run_name(sweep_folder: str, job: int, asked: str | None) -> str:
    """What W&B is to call a job: fairseq would call all of them "checkpoints".

    Args:
        sweep_folder: of the whole sweep.
        job: its number.
        asked: the name in the environment, if there is one.
    """
    return f"{asked or sweep_folder.rstrip('/').rpartition('/')[2]}-{job}"
