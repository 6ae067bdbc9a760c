"""`speechprune report`: runs, masks, layers and slim models on one page of HTML."""

from __future__ import annotations

from pathlib import Path

import click

from speechprune.tools._options import data_of_runs_option, which_option, whole_number

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("sources", metavar="RUN...", nargs=-1, required=True, type=_PATH)
@click.option("--out", required=True, type=_PATH, metavar="FILE", help="Page of HTML to write.")
@click.option("--title", default="speechprune report", show_default=True, help="Title of the page.")
@click.option(
    "--subset",
    help="Name of the manifest to evaluate on and to take examples from; by default earlier "
    "evaluations are shown, and nothing is transcribed.",
)
@data_of_runs_option
@click.option(
    "--examples",
    type=whole_number(0, 1000),
    default=10,
    show_default=True,
    help="Number of utterances of the subset to transcribe.",
)
@which_option
def command(
    sources: tuple[Path, ...],
    out: Path,
    title: str,
    subset: str | None,
    data: Path | None,
    examples: int,
    which: str,
) -> None:
    """Write one page about RUNs that needs no network and runs no script.

    A RUN is the folder of a training run, or one with runs and reports below it, such as those of
    `recipe`, `layers auto` and `slim auto`; or a file: a checkpoint, masks, a similarity matrix,
    layer plans, or what `evaluate --json` prints, from which speeds are taken.

    The page shows error rates against sparsity, size and speed, curves of the trainings, densities
    by layer and role, overlaps of masks, similarities of layers, plans, heads and channels, and
    transcripts with their errors marked. It says what is missing. Equal input gives equal bytes.

    Evaluations are kept in the folders of runs, as evaluation-SUBSET.json.
    """
    from speechprune.files import refuse_to_replace
    from speechprune.reports.page.page import check_page, page_of, read_contents, save_page
    from speechprune.reports.page.reading import Wanted

    if data is not None and subset is None:
        raise click.UsageError("--data needs --subset, the name of a manifest in it.")
    refuse_to_replace(out, *sources)
    check_page(out)
    contents = read_contents(sources, Wanted(which, subset, data, examples))
    save_page(page_of(contents, title), out)
    click.echo(f"{out}: runs {len(contents.runs)}, models {len(contents.models)}")
