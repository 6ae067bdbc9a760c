"""`speechprune compare`: error rates of finished runs against sparsity, over seeds."""

from __future__ import annotations

import json
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


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
@click.option("--figure", type=_PATH, metavar="FILE", help="Draw error rates against sparsity.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    runs: tuple[Path, ...],
    subset: str,
    data: Path | None,
    which: str,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Compare finished training RUNs, folders with `checkpoints` in them; others are left out.

    One line per method and sparsity, with the mean and the sample standard deviation over seeds.
    Sparsity is measured: the share removed of the maskable weights. Updates are those of the final
    training and of all rounds, and for how many of them the encoder was frozen. What makes the runs
    hard to compare is told below the table.

    Evaluations are kept in the folders, as evaluation-SUBSET.json.
    """
    from speechprune.figures import check_figure_path
    from speechprune.reports.comparison import compare

    if figure is not None:
        check_figure_path(figure)
    comparison = compare(runs, subset=subset, data=data, which=which)
    if figure is not None:
        comparison.draw(figure)
    if as_json:
        click.echo(json.dumps(comparison.describe(), indent=2))
        return
    click.echo(comparison.describe_in_words())
    for line in comparison.warnings():
        click.echo(f"warning: {line}", err=True)
