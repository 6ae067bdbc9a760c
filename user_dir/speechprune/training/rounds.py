"""Steps one after the other: training runs, and what is done between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock
from typing import Callable, Protocol

from tqdm import tqdm

from speechprune.ending import end_children
from speechprune.errors import UserError
from speechprune.training.run import TrainingRun

_SECONDS_BETWEEN_LOOKS = 0.5

Tell = Callable[[str], None]


class Round(Protocol):
    """A step that is done once.

    Attributes:
        name: for people.
        target: the file or folder that identifies it.
        makes: the file or folder that later rounds need.
        needs: what has to be there first.
        is_begun: whether there is something to go on from.
        is_done: whether there is nothing left to do.
    """

    @property
    def name(self) -> str: ...
    @property
    def target(self) -> Path: ...
    @property
    def makes(self) -> Path: ...
    @property
    def needs(self) -> Sequence[Path]: ...
    @property
    def is_begun(self) -> bool: ...
    @property
    def is_done(self) -> bool: ...
    def finish(self, environment: Mapping[str, str]) -> None:
        """Do it, or what is left of it; check what was made if it is done."""


def finish_all(
    plans: Sequence[Sequence[Round]], *, jobs: int = 1, tell: Tell = lambda line: None
) -> None:
    """Do the steps of each plan in order, and what plans share once.

    Args:
        jobs: plans at a time; with more than one, each trains with one thread.
        tell: is called with a line when a step begins.

    Raises:
        UserError: a step failed, or one is missing that a later one was made from.
    """
    for plan in plans:
        _refuse_gaps(plan)
    runs = {s.target: s for plan in plans for s in plan if isinstance(s, TrainingRun)}
    work = _Work(plans, {"OMP_NUM_THREADS": "1"} if jobs > 1 else {}, tell)
    with ThreadPoolExecutor(jobs) as pool:
        finishing = [pool.submit(work.finish, plan) for plan in plans]
        try:
            _show_progress(list(runs.values()), finishing)
        except BaseException:
            work.stopped = True
            # A plan may just be starting another one.
            while wait(finishing, _SECONDS_BETWEEN_LOOKS).not_done:
                end_children()
            raise
    for future in finishing:
        future.result()


class _Work:
    """Plans that several threads do, which share steps."""

    def __init__(
        self, plans: Sequence[Sequence[Round]], environment: Mapping[str, str], tell: Tell
    ) -> None:
        self.stopped = False
        self.environment = environment
        self.tell = tell
        self.locks = {step.target: Lock() for plan in plans for step in plan}

    def finish(self, plan: Sequence[Round]) -> None:
        """Do a plan's steps, unless another plan failed."""
        for number, step in enumerate(plan, 1):
            with self.locks[step.target]:
                if self.stopped:
                    return
                if not step.is_done:
                    self.tell(f"round {number} of {len(plan)}: {_described(step)}")
                try:
                    step.finish(self.environment)
                except BaseException:
                    self.stopped = True
                    raise


def _described(step: Round) -> str:
    """A step's name, and of a training what there is to wait for, and where to watch it."""
    if not isinstance(step, TrainingRun):
        return step.name
    goes_on = ", on from its last checkpoint" if step.is_begun else ""
    return f"{step.name}, {step.updates} updates{goes_on}; its log is {step.log}"


def _refuse_gaps(plan: Sequence[Round]) -> None:
    """A round that is missing cannot be made again: later ones came from the one that was there."""
    missing = {step.makes: step for step in plan if not step.is_begun}
    for later in plan:
        for path in later.needs if later.is_begun else ():
            if path in missing:
                raise UserError(
                    f"{missing[path].target} ({missing[path].name}) is missing, but {later.target} "
                    "was made from it; restore it, or remove what came later"
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
