"""`speechprune demo`: adapt a small model in three ways and compare them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechprune.tools._options import AT_A_TIME, whole_number

if TYPE_CHECKING:
    from speechprune.recipes.demo import Result

_COLUMNS = ("method", "WER %", "CER %", "kept %", "bytes for this task")


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder that the runs and the figure are written to.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Manifest folder with train, valid and test; by default a synthetic corpus is made.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Pretrained checkpoint; by default the nano model that comes with speechprune.",
)
@click.option(
    "--updates",
    type=whole_number(1),
    default=300,
    show_default=True,
    help="Number of updates of each run.",
)
@click.option("--jobs", type=AT_A_TIME, help="Number of runs at a time; by default as cores allow.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.argument("overrides", nargs=-1)
def command(
    out: Path,
    data: Path | None,
    model: Path | None,
    updates: int,
    jobs: int | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Train a head alone, all weights, and a mask on the connections; print one table.

    OVERRIDES are passed to every run, such as optimization.lr=[0.001].
    """
    from speechprune.locks import locked
    from speechprune.recipes.demo import adapt_and_measure
    from speechprune.recipes.nano import ASSET

    jobs = jobs or min(3, os.cpu_count() or 1)
    figure = out / "demo.png"
    with locked(out):
        results = adapt_and_measure(data, model or ASSET, out, updates, overrides, jobs)
        _draw(results, figure)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results]))
    else:
        _print_table(results)
        click.echo(f"\nfigure: {figure}")


def _draw(results: list[Result], figure: Path) -> None:
    from speechprune.figures import grouped_bars
    from speechprune.intervals import training_in_words

    updates, seeds = [each.updates for each in results], sorted({each.seed for each in results})
    training = training_in_words(updates, seeds, several=False)
    grouped_bars(
        [f"{result.title}\n{result.bytes:,} bytes" for result in results],
        {"WER": [result.wer for result in results], "CER": [result.cer for result in results]},
        figure,
        title=f"Error rates on the test split (%); {training}",
    )


def _print_table(results: list[Result]) -> None:
    rows = [_COLUMNS] + [
        (r.title, f"{r.wer:.1f}", f"{r.cer:.1f}", f"{100 * r.kept:.1f}", f"{r.bytes:,}")
        for r in results
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]
        click.echo("  ".join(cells))
