"""`speechprune prepare`: corpora as fairseq manifest folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.manifests.manifest import Utterance
from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic
from speechprune.manifests.vocabulary import LANGUAGES

_AT_LEAST_1 = click.IntRange(1)


def _shared(
    train: int, valid: int, test: int
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of every corpus, with its default sizes."""
    sizes = {"train": train, "valid": valid, "test": test}
    options = [
        click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder."),
        *(
            click.option(f"--{name}", type=_AT_LEAST_1, default=size, help="Utterances.")
            for name, size in sizes.items()
        ),
        click.option("--seed", type=click.IntRange(0), default=1),
        click.option("--overwrite", is_flag=True, help="Replace a prepared corpus."),
    ]

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@click.group(context_settings={"show_default": True})
def command() -> None:
    """Prepare a corpus: audio, SPLIT.tsv, SPLIT.ltr, SPLIT.wrd and dict.ltr.txt in one folder."""


@command.command()
@_shared(train=900, valid=40, test=80)
@click.option(
    "--language",
    "languages",
    type=click.Choice(sorted(LANGUAGES)),
    multiple=True,
    default=("en",),
    help="May be repeated.",
)
@click.option("--vocabulary", type=click.IntRange(2), default=40, help="Words per language.")
@click.option("--workers", type=_AT_LEAST_1, default=1, help="Processes; the result is the same.")
def synthetic(
    out: Path,
    train: int,
    valid: int,
    test: int,
    seed: int,
    overwrite: bool,
    languages: tuple[str, ...],
    vocabulary: int,
    workers: int,
) -> None:
    """Short sentences spoken by espeak-ng in many voices; the voices of the splits differ."""
    settings = SyntheticSpeech(
        languages=tuple(dict.fromkeys(languages)),
        sizes={"train": train, "valid": valid, "test": test},
        vocabulary=vocabulary,
        seed=seed,
    )
    make_synthetic(out, settings, workers=workers, overwrite=overwrite, progress=_bar)


@command.command()
@_shared(train=1000, valid=60, test=200)
@click.option(
    "--archive",
    required=True,
    type=click.Path(path_type=Path),
    help="Tar archive of fsdd/{digit}_{speaker}_{index}.flac.",
)
def digits(
    out: Path, train: int, valid: int, test: int, seed: int, overwrite: bool, archive: Path
) -> None:
    """Strings of real spoken digits, cut together from the Free Spoken Digit Dataset."""
    settings = DigitStrings(sizes={"train": train, "valid": valid, "test": test}, seed=seed)
    make_digits(out, archive, settings, overwrite=overwrite, progress=_bar)


def _bar(utterances: Iterable[Utterance], total: int) -> Iterator[Utterance]:
    """A progress bar on stderr; silent in a log file."""
    yield from tqdm(utterances, total=total, unit="utterance", disable=None)
