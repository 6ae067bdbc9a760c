"""One place on the map: its trainings, and how the learning rate of each method is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.claims.data import Fold
from benchmarks.claims.measured import (
    BEST,
    KNOWN,
    LAST,
    TRAINED,
    UNKNOWN,
    Errors,
    MethodResult,
    SeedResult,
    best_rate,
)
from benchmarks.claims.methods import Method
from benchmarks.claims.own_bytes import own_bytes
from speechprune.checkpoint import read
from speechprune.errors import UserError
from speechprune.manifests.split_files import split_digest
from speechprune.reports.runs import evaluate_checkpoint
from speechprune.training.overrides import quoted, unquoted
from speechprune.training.rounds import finish_all
from speechprune.training.run import TrainingRun

_CONFIG = "demo/nano"
#: Half the batches of the demo, 7.5 s: a panel takes long enough.
_SHARED = (
    "common.log_interval=50",
    "dataset.max_tokens=120000",
    "checkpoint.best_checkpoint_metric=uer",
)
#: Validations of a training, if there are as many hundreds of updates.
_VALIDATIONS = 10
#: Learning rates of a method, at the most: equal budgets.
_MOST_TRIED = 5
_SPLITS = {LAST: (TRAINED, KNOWN, UNKNOWN), BEST: (KNOWN, UNKNOWN)}


@dataclass(frozen=True)
class Panel:
    """A place on the map.

    Attributes:
        model: the pretrained checkpoint.
        updates: of each training.
        folds: one for each seed, which are counted from 1.
        out: folder of its runs.
        jobs: trainings at a time.
        tell: is called with a line when a training begins.
    """

    model: Path
    updates: int
    folds: tuple[Fold, ...]
    out: Path
    jobs: int
    tell: Callable[[str], None]

    def run(self, method: Method, rate: float, seed: int) -> TrainingRun:
        """A training with a learning rate."""
        name = f"{method.slug}/rate-{rate:g}-seed-{seed}"
        often = max(100, self.updates // _VALIDATIONS)
        overrides = (
            f"task.data={quoted(str(self.folds[seed - 1].folder.resolve()))}",
            f"model.w2v_path={quoted(str(self.model.resolve()))}",
            f"common.seed={seed}",
            f"checkpoint.save_interval_updates={often}",
            f"dataset.validate_interval_updates={often}",
            *_SHARED,
            *method.settings(self.updates, rate),
        )
        return TrainingRun(name, self.out / name, _CONFIG, overrides, self.updates)

    def measured(self, method: Method) -> MethodResult:
        """Choose a method's learning rate with the first seed, train the others, evaluate all."""
        tried = self._try_rates(method)
        rate = best_rate(tried)
        runs = {seed: self.run(method, rate, seed) for seed in range(1, 1 + len(self.folds))}
        self._train(list(runs.values()))
        seeds = tuple(self._of_seed(seed, run) for seed, run in runs.items())
        pretrained = read(self.model)["model"]
        sizes = [own_bytes(read(run.checkpoint)["model"], pretrained) for run in runs.values()]
        return MethodResult(method.name, tried, int(median(sizes)), seeds)

    def _try_rates(self, method: Method) -> dict[float, float]:
        """Character errors in validation by learning rate, of the middle three and further until
        the best has a worse one on either side, five were tried, or no more are left."""
        rates, tried = method.rates, dict[float, float]()
        wanted = _beside(len(rates) // 2, len(rates))
        while wanted and len(tried) < _MOST_TRIED:
            tried |= self._tried({rates[at]: self.run(method, rates[at], 1) for at in wanted})
            beside = _beside(rates.index(best_rate(tried)), len(rates))
            wanted = [place for place in beside if rates[place] not in tried]
        return {rate: tried[rate] for rate in sorted(tried)}

    def _tried(self, runs: Mapping[float, TrainingRun]) -> dict[float, float]:
        """Character errors in validation by learning rate; infinite where training diverged.

        Raises:
            UserError: a training failed otherwise.
        """
        left, found = dict(runs), dict[float, float]()
        while left:
            try:
                self._train(list(left.values()))
                found |= {rate: self._errors(run, LAST, "valid").cer for rate, run in left.items()}
                left = {}
            except UserError as error:
                failed = [rate for rate, run in left.items() if run.name in str(error)]
                if not failed or "(training diverged" not in str(error):
                    raise
                found |= dict.fromkeys(failed, math.inf)
                left = {rate: run for rate, run in left.items() if rate not in failed}
        return found

    def _train(self, runs: Sequence[TrainingRun]) -> None:
        """Train what is not trained yet, several at a time."""
        finish_all([[run] for run in runs], jobs=self.jobs, tell=self.tell)

    def _of_seed(self, seed: int, run: TrainingRun) -> SeedResult:
        errors = {
            which: {split: self._errors(run, which, split) for split in splits}
            for which, splits in _SPLITS.items()
        }
        return SeedResult(seed, self.folds[seed - 1].speaker, errors)

    def _errors(self, run: TrainingRun, which: str, split: str) -> Errors:
        """Of a checkpoint on a split; they are kept in the run's folder."""
        data = Path(unquoted(run.data))
        manifest = split_digest(data, split, "ltr")
        found = evaluate_checkpoint(run.folder, which, data, split, manifest)[0]
        return Errors(found.wer, found.cer)


def _beside(place: int, places: int) -> list[int]:
    """A place among so many, and those next to it."""
    return list(range(max(0, place - 1), min(places, place + 2)))
