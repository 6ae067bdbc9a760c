"""`speechprune compare`: error rates of finished runs against sparsity, over seeds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from speechprune.tools._options import data_of_runs_option, which_option

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=_PATH)
@click.option(
    "--subset", default="test", show_default=True, help="Name of the manifest to evaluate on."
)
@data_of_runs_option
@which_option
@click.option(
    "--figure",
    type=_PATH,
    metavar="FILE",
    help="Figure of error rates against sparsity to draw: .png, .pdf or .svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(
    runs: tuple[Path, ...],
    subset: str,
    data: Path | None,
    which: str,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Compare finished training RUNs, folders with `checkpoints` in them; others are left out.

    One line per method and sparsity, with the median over seeds, and the least and the most.
    Sparsity is measured: the share removed of the maskable weights. Updates are those of the final
    training and of all rounds, and for how many of them the encoder was frozen. Warnings below the
    table say what makes the runs hard to compare.

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
