"""Finished training runs side by side: error rates against sparsity, as medians over seeds.

What makes a comparison unfair or its numbers weak is said beside it: `Comparison.warnings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from tqdm import tqdm

from speechprune.curves import Curve, Panel, line_panels
from speechprune.errors import UserError
from speechprune.intervals import Interval, training_in_words, updates_in_words
from speechprune.models.names import OF_SPEECH, OF_TEXT
from speechprune.reports.runs import (
    FinishedRun,
    Result,
    evaluate_run,
    read_run,
    subset_digest,
)
from speechprune.reports.unfinished import UnfinishedRun
from speechprune.tables import table

_COLUMNS = ("method", "seeds", "sparsity %")
_SETTINGS = (
    "parameters kept",
    "updates",
    "in all",
    "encoder frozen",
)

#: What masks and recipes of the same target may differ by.
SPARSITY_TOLERANCE = 0.005


@dataclass(frozen=True)
class Row:
    """Runs of one method at one sparsity (percent), which differ in their seeds."""

    label: str
    sparsity: float
    is_dense: bool
    results: tuple[Result, ...]

    @property
    def title(self) -> str:
        return self.label if self.is_dense else f"{self.label} at {self.sparsity:.1f} %"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Each once, sorted."""
        return tuple(sorted({result.run.seed for result in self.results}))

    @property
    def kept(self) -> int:
        """Parameters that are not removed; the mean, should the runs differ."""
        return round(mean(r.evaluation.parameters - r.evaluation.removed for r in self.results))

    def percent(self, rate: str) -> Interval:
        """A rate, such as "wer", over the runs."""
        return Interval.of([100 * getattr(result.evaluation, rate) for result in self.results])

    def settings(self, name: str) -> tuple[int, ...]:
        """The values of an attribute of the runs, each once, sorted."""
        return tuple(sorted({getattr(result.run, name) for result in self.results}))


@dataclass(frozen=True)
class Comparison:
    """Evaluated runs.

    Attributes:
        subset: what they were evaluated on.
        which: "last" or "best", the checkpoint that counts.
        results: in the order in which the runs were given.
        notes: what else is to be warned of.
    """

    subset: str
    which: str
    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> dict[str, str]:
        """The rates that are compared, and how tables call them."""
        return dict(self.results[0].evaluation.rate_names)

    @property
    def _rates(self) -> tuple[str, ...]:
        """The names of rates in JSON, where the one of units has two."""
        return ("error",) if "error" in self.errors else ("wer", "cer")

    def rows(self) -> list[Row]:
        """Dense controls first, then methods as they were given, each by sparsity."""
        groups: dict[tuple[bool, str, float], list[Result]] = {}
        for found in self.results:
            key = (found.is_dense, found.run.label, found.percent_removed)
            groups.setdefault(key, []).append(found)
        labels = [found.run.label for found in self.results]
        ordered = sorted(groups, key=lambda key: (not key[0], labels.index(key[1]), key[2]))
        return [Row(key[1], key[2], key[0], tuple(groups[key])) for key in ordered]

    def warnings(self) -> list[str]:
        """A line for each reason to doubt the comparison."""
        runs = [found.run for found in self.results]
        rows = self.rows()
        lines = _differing(
            "model.freeze_finetune_updates differs",
            [(run.freeze_finetune_updates, run.freeze_finetune_updates, run.label) for run in runs],
        )
        lines += _differing(
            "the final trainings differ in updates",
            [(run.final_updates, run.final_updates, run.label) for run in runs],
        )
        lines += _differing(
            "training data differ",
            [(run.training_digest, run.training_data, run.label) for run in runs],
        )
        lines += _differing(
            f"{self.subset} is not the same data for all",
            [
                (found.subset_digest, found.run.task["data"], found.run.label)
                for found in self.results
            ],
        )
        if not any(row.is_dense for row in rows):
            names = OF_TEXT if runs[0].is_of_text else OF_SPEECH
            lines.append(f"no dense control among the runs (model._name={names.weights})")
        seeds = [(row.seeds, ", ".join(map(str, row.seeds)), row.title) for row in rows]
        lines += _differing("seeds differ", seeds)
        for row in rows:
            if len(row.seeds) < len(row.results):
                lines.append(f"{row.title}: runs with equal seeds are not independent samples")
        return [*lines, *filter(None, map(_missed_target, self.results)), *self.notes]

    def describe(self) -> dict[str, Any]:
        """All there is to say; rates and sparsities are shares, rates of rows medians of runs."""
        return {
            "subset": self.subset,
            "checkpoint": self.which,
            "rows": [_row(row, self._rates) for row in self.rows()],
            "runs": [_result(found, self._rates) for found in self.results],
            "warnings": self.warnings(),
        }

    def describe_in_words(self) -> str:
        """A table of the rows."""
        errors = self.errors
        over = " (least to most)" * any(len(row.results) > 1 for row in self.rows())
        titles = [*_COLUMNS, *(f"{name} %{over}" for name in errors.values()), *_SETTINGS]
        return table([titles, *(_cells(row, errors) for row in self.rows())])

    def draw(self, path: Path, title: str = "") -> None:
        """Save error rates against sparsity, medians with bars from the least run to the most.

        Args:
            title: what the runs are of; which subset, seeds and updates comes after it.

        Raises UserError if the file cannot be written.
        """
        names = self._names()
        groups: dict[str, list[Row]] = {}
        for row in self.rows():
            groups.setdefault(names[row.is_dense, row.label], []).append(row)
        panels = [
            Panel("sparsity (%)", f"{name} (%)", *_drawn(groups, rate))
            for rate, name in self.errors.items()
        ]
        what = f"{title}: error" if title else "Error"
        line_panels(panels, path, f"{what} rates on {self.subset}; {self.trainings()}")

    def trainings(self) -> str:
        """Which seeds and how many updates the rates are of, for captions."""
        runs, rows = [found.run for found in self.results], self.rows()
        seeds = sorted({run.seed for run in runs})
        several = any(len(row.results) > 1 for row in rows)
        told = training_in_words([run.updates for run in runs], seeds, several)
        some = len({row.seeds for row in rows}) > 1
        return f"{told} in all{', not every seed of each method' * some}"

    def _names(self) -> dict[tuple[bool, str], str]:
        """What legends call methods: with their updates, where these differ."""
        updates: dict[tuple[bool, str], list[int]] = {}
        for found in self.results:
            updates.setdefault((found.is_dense, found.run.label), []).append(found.run.updates)
        shown = {key: updates_in_words(numbers) for key, numbers in updates.items()}
        differ = len(set(shown.values())) > 1
        return {key: f"{key[1]}, {told}" if differ else key[1] for key, told in shown.items()}


def compare(
    folders: Sequence[Path], *, subset: str = "test", data: Path | None = None, which: str = "last"
) -> Comparison:
    """Evaluate finished training runs, or take what an earlier evaluation found.

    See `evaluate_run` for what is kept of it. Folders without a finished run are left out, with a
    note.

    Args:
        folders: of the runs.
        subset: the manifest to evaluate on.
        data: its folder; by default that of each run's own training.
        which: "last" or "best".

    Raises:
        UserError: a folder is given twice or does not exist, none is of a finished training run, or
            a run or the subset is damaged, some are of text and others of speech; all of this is
            read before the first evaluation. Or evaluations have different error rates.
    """
    for index, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:index]]:
            raise UserError(f"{folder} is given twice; give each run once")
    runs, notes = _finished(folders, which, data)
    _refuse_mixed(runs)
    digests = [subset_digest(run, subset) for run in runs]
    results: list[Result] = []
    for run, manifest in zip(tqdm(runs, unit="run", desc="evaluating", disable=None), digests):
        evaluation, note = evaluate_run(run, subset, manifest)
        results.append(Result(run, evaluation, manifest))
        _refuse_other_rates(results[0], results[-1])
        notes += [note] if note else []
    return Comparison(subset, which, tuple(results), tuple(notes))


def _finished(
    folders: Sequence[Path], which: str, data: Path | None
) -> tuple[list[FinishedRun], list[str]]:
    """The runs, and a note for each folder that holds none."""
    runs, left_out = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder, which, data))
        except UnfinishedRun as reason:
            left_out.append((folder, reason))
    if not runs:
        reasons = "; ".join(f"{folder} ({reason})" for folder, reason in left_out)
        raise UserError(f"no finished training run is among these: {reasons}")
    return runs, [f"{folder} is left out: {reason}" for folder, reason in left_out]


def _refuse_mixed(runs: Sequence[FinishedRun]) -> None:
    """Raise UserError if some runs are of text, and others of speech."""
    for run in runs:
        if run.is_of_text != runs[0].is_of_text:
            told = ["text" if each.is_of_text else "speech" for each in (runs[0], run)]
            raise UserError(
                f"{runs[0].folder} is a run on {told[0]}, but {run.folder} on {told[1]}; "
                "compare them apart"
            )


def _refuse_other_rates(first: Result, other: Result) -> None:
    """Raise UserError if two runs have error rates that cannot stand in one column."""
    if other.evaluation.rate_names != first.evaluation.rate_names:
        told = [" and ".join(each.evaluation.rate_names.values()) for each in (first, other)]
        raise UserError(
            f"{first.run.folder} is measured by {told[0]}, but {other.run.folder} by {told[1]}; "
            "compare them apart"
        )


def _differing(what: str, values: Iterable[tuple[Any, Any, str]]) -> list[str]:
    """One line if values differ, none if not.

    Args:
        values: what is compared, how it is shown, and whose it is.
    """
    shown: dict[Any, str] = {}
    owners: dict[Any, dict[str, None]] = {}
    for value, text, owner in values:
        shown[value] = str(text)
        owners.setdefault(value, {})[owner] = None
    if len(shown) < 2:
        return []
    parts = [f"{text} ({', '.join(owners[value])})" for value, text in shown.items()]
    return [f"{what}: {'; '.join(parts)}"]


def _missed_target(found: Result) -> str | None:
    """A line if a checkpoint is not as sparse as its run was to be, as the best one may be."""
    target, removed = found.run.sparsity, 1 - found.evaluation.density
    if target is None or abs(target - removed) <= SPARSITY_TOLERANCE:
        return None
    return (
        f"{found.run.checkpoint} has {100 * removed:.1f} % sparsity, but the run was to reach "
        f"{100 * target:.1f} %"
    )


def _row(row: Row, errors: Iterable[str]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "label": row.label,
        "sparsity": round(row.sparsity / 100, 3),
        "dense_control": row.is_dense,
        "seeds": list(row.seeds),
    }
    for rate in errors:
        found = row.percent(rate)
        described[rate] = found.median / 100
        described[f"{rate}_least"], described[f"{rate}_most"] = found.least / 100, found.most / 100
    described["parameters_kept"] = row.kept
    for name in ("final_updates", "updates", "freeze_finetune_updates"):
        described[name] = list(row.settings(name))
    return described


def _result(found: Result, errors: Iterable[str]) -> dict[str, Any]:
    run = found.run
    return {
        "run": str(run.folder),
        "checkpoint": str(run.checkpoint),
        "label": run.label,
        "seed": run.seed,
        "final_updates": run.final_updates,
        "updates": run.updates,
        "freeze_finetune_updates": run.freeze_finetune_updates,
        "training_data": run.training_data,
        "test_data": run.task["data"],
        **{rate: getattr(found.evaluation, rate) for rate in errors},
        **{name: getattr(found.evaluation, name) for name in ("density", "parameters", "removed")},
    }


def _cells(row: Row, errors: Iterable[str]) -> list[str]:
    settings = ("final_updates", "updates", "freeze_finetune_updates")
    return [
        row.label,
        str(len(row.seeds)),
        f"{row.sparsity:.1f}",
        *(row.percent(rate).in_words() for rate in errors),
        f"{row.kept:,}",
        *(", ".join(f"{value:,}" for value in row.settings(name)) for name in settings),
    ]


def _drawn(
    groups: Mapping[str, Sequence[Row]], rate: str
) -> tuple[dict[str, Curve], dict[str, Interval]]:
    """Curves of methods and levels of dense controls, by their names."""
    curves, levels = {}, {}
    for name, rows in groups.items():
        found = [row.percent(rate) for row in rows]
        if rows[0].is_dense:
            levels[name] = found[0]
        else:
            curves[name] = Curve.of_intervals([row.sparsity for row in rows], found)
    return curves, levels
