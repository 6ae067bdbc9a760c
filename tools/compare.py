"""`speechprune compare`: error rates of finished runs against sparsity, over seeds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from speechprune.comparison import Comparison, Row, compare
from speechprune.finished_runs import Result
from speechprune.tables import table

_PATH = click.Path(path_type=Path)
_COLUMNS = (
    "method",
    "seeds",
    "sparsity %",
    "WER %",
    "CER %",
    "parameters kept",
    "updates",
    "in all",
    "encoder frozen",
)


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=_PATH)
@click.option("--subset", default="test", show_default=True, help="The manifest to evaluate on.")
@click.option("--data", type=_PATH, help="Its folder; by default that of each run's training.")
@click.option(
    "--checkpoint",
    "which",
    type=click.Choice(["last", "best"]),
    default="last",
    show_default=True,
    help="Which one of a run counts.",
)
@click.option("--figure", type=_PATH, metavar="PNG", help="Draw error rates against sparsity.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    runs: tuple[Path, ...],
    subset: str,
    data: Path | None,
    which: str,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Compare finished training RUNs, folders with `checkpoints` in them.

    One line per method and sparsity, with the mean and the sample standard deviation over seeds.
    Sparsity is measured: the share removed of the maskable weights. Updates are those of the final
    training and of all rounds, and for how many of them the encoder was frozen. What makes the runs
    hard to compare is told below the table.

    Evaluations are kept in the folders, as evaluation-SUBSET.json.
    """
    comparison = compare(runs, subset=subset, data=data, which=which)
    if figure is not None:
        comparison.draw(figure)
    if as_json:
        click.echo(json.dumps(report(comparison, which), indent=2))
        return
    click.echo(table([_COLUMNS, *map(_cells, comparison.rows())]))
    for line in comparison.warnings():
        click.echo(f"warning: {line}", err=True)


def report(comparison: Comparison, which: str) -> dict[str, Any]:
    """All that there is to say; rates and sparsities are shares, deviations null for one run."""
    return {
        "subset": comparison.subset,
        "checkpoint": which,
        "rows": [_row(row) for row in comparison.rows()],
        "runs": [_result(found) for found in comparison.results],
        "warnings": comparison.warnings(),
    }


def _row(row: Row) -> dict[str, Any]:
    described: dict[str, Any] = {
        "label": row.label,
        "sparsity": round(row.sparsity / 100, 3),
        "dense_control": row.is_dense,
        "seeds": list(row.seeds),
    }
    for rate in ("wer", "cer"):
        value, spread = row.percent(rate)
        described[rate] = value / 100
        described[f"{rate}_deviation"] = None if spread is None else spread / 100
    described["parameters_kept"] = row.kept
    for name in ("final_updates", "updates", "freeze_finetune_updates"):
        described[name] = list(row.settings(name))
    return described


def _result(found: Result) -> dict[str, Any]:
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
        **asdict(found.measured),
    }


def _cells(row: Row) -> list[str]:
    settings = ("final_updates", "updates", "freeze_finetune_updates")
    return [
        row.label,
        str(len(row.seeds)),
        f"{row.sparsity:.1f}",
        _rate(row, "wer"),
        _rate(row, "cer"),
        f"{row.kept:,}",
        *(", ".join(f"{value:,}" for value in row.settings(name)) for name in settings),
    ]


def _rate(row: Row, rate: str) -> str:
    value, spread = row.percent(rate)
    return f"{value:.1f}" if spread is None else f"{value:.1f} ±{spread:.1f}"
