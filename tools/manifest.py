"""`speechprune manifest`: check, count, draw from, merge and split manifest folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

import click

from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.operations import Sizes
from speechprune.tables import table
from speechprune.tools._options import SEED, Number, dictionary_option, whole_number

_PATH = click.Path(path_type=Path)
_dictionary = dictionary_option("that of DIR")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace a prepared corpus at OUT.")
_seed = click.option(
    "--seed",
    type=SEED,
    default=1,
    show_default=True,
    help="Seed of everything that is drawn at random.",
)
_labels = click.option(
    "--labels",
    metavar="ENDING",
    help="Ending of the label files, as in task.labels; by default, labels of every kind.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def _split(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--split", default="train", show_default=True, help=help_text)


@click.group("manifest")
def command() -> None:
    """Check fairseq manifest folders, ours or any other, and make new ones of them."""


@command.command()
@click.argument("folder", metavar="DIR", type=_PATH)
@_labels
@click.option(
    "--dictionary",
    type=_PATH,
    metavar="FILE",
    help="Dictionary to compare the labels with, such as that of a model, in place of that of DIR.",
)
@click.option("--max-tokens", type=whole_number(1), help="Most samples that a batch may have.")
@click.option(
    "--sample-rate",
    type=whole_number(1),
    default=SAMPLE_RATE,
    show_default=True,
    help="Sample rate that every recording must have, in Hz.",
)
@_json
@click.pass_context
def check(
    context: click.Context,
    folder: Path,
    labels: Optional[str],
    dictionary: Optional[Path],
    max_tokens: Optional[int],
    sample_rate: int,
    as_json: bool,
) -> None:
    """List all that is wrong with the splits of DIR.

    Reads the header of every recording, and compares files, labels of every kind, dictionaries and
    speakers. The exit status is 1 if anything is wrong.
    """
    from speechprune.manifests.report import check_folder

    report = check_folder(
        folder,
        labels=labels,
        dictionary=dictionary,
        sample_rate=sample_rate,
        max_tokens=max_tokens,
    )
    click.echo(_dumps(report.describe()) if as_json else report.describe_in_words())
    if report.errors:
        context.exit(1)


@command.command()
@click.argument("folder", metavar="DIR", type=_PATH)
@_labels
@_json
@click.option(
    "--figure", type=_PATH, metavar="FILE", help="Figure of lengths to draw, .png, .pdf or .svg."
)
def stats(folder: Path, labels: Optional[str], as_json: bool, figure: Optional[Path]) -> None:
    """Count what the splits of DIR hold.

    That is utterances, hours, symbols or classes, words and speakers, once for each kind of labels.
    """
    from speechprune.figures import check_figure_path
    from speechprune.manifests.label_files import CLASSES
    from speechprune.manifests.statistics import (
        describe_in_words,
        length_histogram,
        read_statistics,
    )

    if figure is not None:
        check_figure_path(figure)
    kinds = read_statistics(folder, labels)
    if figure is not None:
        splits = {name: found.seconds for kind in kinds.values() for name, found in kind.items()}
        length_histogram(splits, figure)
    if as_json:
        described = {
            ending: {name: found.describe() for name, found in splits.items()}
            for ending, splits in kinds.items()
        }
        first = next(iter(described.values()))
        click.echo(_dumps({"folder": str(folder), "splits": first, "labels": described}))
    else:
        title = "labels in .{}\n" if len(kinds) > 1 else ""
        texts = [
            title.format(ending) + describe_in_words(splits, classes=ending == CLASSES)
            for ending, splits in kinds.items()
        ]
        click.echo("\n\n".join(texts))


@command.command()
@click.argument("folder", metavar="DIR", type=_PATH)
@click.argument("out", type=_PATH)
@click.option(
    "--minutes",
    type=Number(0, min_open=True),
    required=True,
    help="Minutes of audio to draw at most.",
)
@_split("Split to draw from.")
@click.option("--name", help="Name of the subset; by default that of its split.")
@_dictionary
@_seed
@_overwrite
def subset(
    folder: Path,
    out: Path,
    minutes: float,
    split: str,
    name: Optional[str],
    dictionary: Optional[Path],
    seed: int,
    overwrite: bool,
) -> None:
    """Draw some minutes of a split of DIR.

    OUT also has the other splits, and DIR's dictionary; the audio stays where it is.
    """
    from speechprune.manifests.subset import draw_subset

    sizes = draw_subset(
        folder,
        out,
        minutes,
        split=split,
        name=name,
        seed=seed,
        dictionary=dictionary,
        overwrite=overwrite,
    )
    _show(sizes)


@command.command()
@click.argument("out", type=_PATH)
@click.argument("folders", metavar="DIR DIR...", nargs=-1, type=_PATH)
@click.option(
    "--language",
    "languages",
    multiple=True,
    help="Language of each DIR, in order; by default what provenance.json says, else its name.",
)
@dictionary_option("that of all folders, or one of all their symbols, sorted")
@_overwrite
def merge(
    out: Path,
    folders: tuple[Path, ...],
    languages: tuple[str, ...],
    dictionary: Optional[Path],
    overwrite: bool,
) -> None:
    """Pool manifest folders of several languages.

    Each split of OUT is that of all folders together, with one dictionary. Its provenance.json has
    the language of each line; a speaker X becomes LANGUAGE/X, or LANGUAGE/CORPUS/X if two corpora
    are in one language.
    """
    from speechprune.manifests.merge import merge as merge_folders

    if len(folders) < 2:
        raise click.UsageError("Give OUT and at least two folders.")
    sizes = merge_folders(out, folders, languages, dictionary=dictionary, overwrite=overwrite)
    _show(sizes)


@command.command("split")
@click.argument("folder", metavar="DIR", type=_PATH)
@click.argument("out", type=_PATH)
@_split("Split to cut.")
@click.option(
    "--into",
    required=True,
    metavar="NAME=SHARE,...",
    help="Parts and their shares of the hours, such as train=0.9,valid=0.1.",
)
@click.option(
    "--by",
    type=click.Choice(["speaker", "utterance"]),
    default="speaker",
    show_default=True,
    help="What stays whole; with utterance, a speaker may be in two parts.",
)
@_dictionary
@_seed
@_overwrite
def cut(
    folder: Path,
    out: Path,
    split: str,
    into: str,
    by: str,
    dictionary: Optional[Path],
    seed: int,
    overwrite: bool,
) -> None:
    """Cut a split of DIR into parts, no speaker in two of them.

    OUT also has the other splits, and DIR's dictionary; the audio stays where it is.
    """
    from speechprune.manifests.partition import parse_shares, split_split

    shares = parse_shares("--into", into)
    sizes = split_split(
        folder,
        out,
        shares,
        split=split,
        by=by,
        seed=seed,
        dictionary=dictionary,
        overwrite=overwrite,
    )
    _show(sizes)


def _show(sizes: Sizes) -> None:
    rows = [["split", "utterances", "minutes"]]
    for name, size in sizes.items():
        rows.append([name, f"{size['utterances']:,}", f"{size['hours'] * 60:.2f}"])
    click.echo(table(rows))


def _dumps(found: Mapping[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False)
