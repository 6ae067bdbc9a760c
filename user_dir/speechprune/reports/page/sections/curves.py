"""Runs, and curves of loss, error, density and flips over their training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from speechprune.reports.page.charts import Chart, Series, charts, legend
from speechprune.reports.page.contents import Contents, Run
from speechprune.reports.page.markup import (
    Markup,
    element,
    joined,
    name_of,
    paragraph,
    remarks,
    table,
)

TITLE = "Runs and their training"

#: What is drawn of the training log, if there is any: its name there, a title and the axis.
_TRAINED = (
    ("loss", "Training loss", "loss"),
    ("density", "Density", "share kept"),
    ("flipped", "Flips", "entries that changed"),
    ("heads_removed", "Heads removed", "share removed"),
    ("channels_removed", "Channels removed", "share removed"),
)
_VALIDATED = (
    ("loss", "Validation loss", "loss"),
    ("wer", "Validation WER", "WER (%)"),
    ("uer", "Validation UER", "error rate of units (%)"),
    ("accuracy", "Validation accuracy", "accuracy (%)"),
)


def section(contents: Contents) -> Markup:
    """A table of the runs, curves of all of them, and the ends of the curves as numbers."""
    if not contents.runs:
        return paragraph("No training run was given.")
    return joined([_facts(contents.runs), _missing(contents.runs), _curves(contents.runs)])


def _facts(runs: Sequence[Run]) -> Markup:
    titles = list(dict.fromkeys(title for run in runs for title in run.facts))
    rows = [
        [name_of(run.name), *(name_of(run.facts.get(title, "–") or "–") for title in titles)]
        for run in runs
    ]
    head = ["run", *titles]
    return table("The runs", head, rows, left=len(head)) if titles else Markup()


def _missing(runs: Sequence[Run]) -> Markup:
    lines = []
    for run in runs:
        if run.problem:
            lines.append(f"{run.name} is not compared: {run.problem}")
        if run.log is None:
            lines.append(f"{run.name} has no log of its training: there are no curves")
            continue
        if not run.log.trained and not run.log.validated:
            lines.append(
                f"{run.log.path.name} of {run.name} holds no numbers: they are logged with "
                "common.log_format=json"
            )
        if run.log.damaged:
            lines.append(
                f"{run.log.path.name} of {run.name}: {_count(run.log.damaged, 'damaged line')} "
                "left out"
            )
        if run.log.not_finite:
            lines.append(
                f"{run.log.path.name} of {run.name}: "
                f"{_count(run.log.not_finite, 'value')} left out that are NaN or infinite"
            )
    return remarks(lines)


def _curves(runs: Sequence[Run]) -> Markup:
    logs = {run.name: run.log for run in runs if run.log is not None}
    drawn: list[tuple[str, str, list[Series]]] = []
    for key, title, axis in _TRAINED:
        trained = {name: {"": log.trained.get(key, {})} for name, log in logs.items()}
        drawn.append((title, axis, _series(trained)))
    for key, title, axis in _VALIDATED:
        validated = {
            name: {split: curves.get(key, {}) for split, curves in log.validated.items()}
            for name, log in logs.items()
        }
        drawn.append((title, axis, _series(validated)))
    drawn = [each for each in drawn if each[2]]
    if not drawn:
        return Markup()
    figures = [Chart(title, "update", axis, found, lines=True) for title, axis, found in drawn]
    numbers = [_ends(title, each) for title, _, found in drawn for each in found]
    head = ["curve", "run", "values", "last update", "first", "lowest", "highest", "last"]
    return joined(
        [
            legend([_with_seed(run) for run in runs if run.log is not None]),
            charts(figures),
            element(
                "details",
                element("summary", "The curves in numbers"),
                table(
                    "Where each curve begins, ends, and between what it stays",
                    head,
                    numbers,
                    left=2,
                ),
            ),
        ]
    )


def _with_seed(run: Run) -> str:
    """What a legend calls a run; how many updates it has had is along the axis."""
    return f"{run.name}: seed {run.facts['seed']}" if "seed" in run.facts else run.name


def _series(runs: Mapping[str, Mapping[str, Mapping[int, float]]]) -> list[Series]:
    """A series for each curve with values; those of the second split and further ones are dashed.

    Args:
        runs: by name, curves by split.
    """
    found = []
    for look, (name, curves) in enumerate(runs.items()):
        for number, (split, curve) in enumerate(curves.items()):
            if curve:
                title = f"{name} on {split}" if split else name
                x, y = [float(update) for update in curve], list(curve.values())
                found.append(Series(title, look, x, y, dashed=number > 0))
    return found


def _ends(title: str, series: Series) -> list[str | Markup]:
    values = series.y
    shown = [values[0], min(values), max(values), values[-1]]
    return [
        title,
        name_of(series.name),
        f"{len(values):,}",
        f"{series.x[-1]:,.0f}",
        *(f"{value:.6g}" for value in shown),
    ]


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
