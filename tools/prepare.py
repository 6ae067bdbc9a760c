"""`speechprune prepare`: corpora as fairseq manifest folders."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from speechprune.manifests.aishell import read_aishell
from speechprune.manifests.common_voice import read_common_voice
from speechprune.manifests.corpus import Corpus
from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.manifests.kaldi import read_kaldi
from speechprune.manifests.labels import characters, phones
from speechprune.manifests.librispeech import read_librispeech
from speechprune.manifests.manifest import Split, read_lines, read_split
from speechprune.manifests.preparation import Preparation, prepare
from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic

_AT_LEAST_1 = click.IntRange(1)
_LABELS = {"characters": characters, "phones": phones}
_SHOWN = 20  # characters dropped and clips left out that are printed; provenance.json has all

_out = click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder.")
_resume = click.option("--resume", is_flag=True, help="Accept a folder that is finished already.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace a prepared corpus.")
_workers = click.option(
    "--workers", type=_AT_LEAST_1, help="Processes, all cores by default; the result is the same."
)
_labels = click.option(
    "--labels", type=click.Choice(sorted(_LABELS)), default="characters", show_default=True
)


def _reader(function: Callable[..., Corpus]) -> Callable[..., None]:
    """The options of every corpus that is read, and what is done with it."""

    @click.argument("folder", type=click.Path(path_type=Path))
    @_out
    @_resume
    @_overwrite
    @_workers
    @click.option(
        "--max-bad",
        type=click.FloatRange(0, 1),
        default=0.01,
        show_default=True,
        help="Largest share of clips that may be unusable.",
    )
    @functools.wraps(function)
    def prepare_it(
        out: Path, resume: bool, overwrite: bool, workers: int | None, max_bad: float, **own: Any
    ) -> None:
        prepared = prepare(
            function(**own),
            out,
            workers=workers,
            max_bad=max_bad,
            resume=resume,
            overwrite=overwrite,
            progress=_bar,
        )
        _show(prepared, out)

    return prepare_it


def _maker(train: int, valid: int, test: int) -> Callable[[Callable[..., None]], Any]:
    """The options of every corpus that is made, with its default sizes."""
    sizes = {"train": train, "valid": valid, "test": test}
    options = [
        _out,
        *(
            click.option(
                f"--{name}", type=_AT_LEAST_1, default=size, show_default=True, help="Utterances."
            )
            for name, size in sizes.items()
        ),
        click.option("--seed", type=click.IntRange(0), default=1, show_default=True),
        _resume,
        _overwrite,
    ]

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@click.group()
def command() -> None:
    """Prepare a corpus: SPLIT.tsv, .ltr, .wrd, .spk, dict.ltr.txt, provenance.json in one folder.

    Audio that is 16 kHz mono WAV or FLAC is used in place; the rest becomes FLAC in the folder. If
    it is interrupted, the same command goes on; digits and synthetic speech, made in seconds, start
    again.
    """


@command.command()
@click.option("--subset", "subsets", multiple=True, help="A split, repeatable; all by default.")
@_labels
@_reader
def librispeech(folder: Path, subsets: tuple[str, ...], labels: str) -> Corpus:
    """LibriSpeech's folders, or Libri-light's librispeech_finetuning (10 min, 1 h, 10 h)."""
    return read_librispeech(folder, _LABELS[labels]("en"), subsets)


@command.command()
@click.option("--language", default="", help="ISO code; the folder's name by default.")
@click.option(
    "--train-hours",
    type=click.FloatRange(0, min_open=True),
    help="Draw the training split from the validated clips, by speakers of its own.",
)
@click.option(
    "--splits",
    type=click.Path(path_type=Path),
    help="Published lists (the ten-language hour); their phones with --labels phones.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the draw.")
@_labels
@_reader
def common_voice(
    folder: Path,
    language: str,
    train_hours: float | None,
    splits: Path | None,
    seed: int,
    labels: str,
) -> Corpus:
    """A language folder of Common Voice, of any release."""
    published = splits is not None and labels == "phones"
    made = None if published else _LABELS[labels](language or folder.absolute().name)
    return read_common_voice(
        folder, made, language=language, train_hours=train_hours, splits=splits, seed=seed
    )


@command.command()
@_reader
def aishell(folder: Path) -> Corpus:
    """AISHELL-1 (data_aishell), by character."""
    return read_aishell(folder, characters("zh"))


@command.command()
@click.option("--language", required=True, help="ISO code, such as en or zh.")
@click.option(
    "--audio",
    type=click.Path(path_type=Path),
    help="Where relative paths in wav.scp start; the current folder by default.",
)
@_labels
@_reader
def kaldi(folder: Path, language: str, audio: Path | None, labels: str) -> Corpus:
    """Kaldi data: a folder with wav.scp and text, or a folder of such."""
    return read_kaldi(folder, language, _LABELS[labels](language), audio)


@command.command()
@_maker(train=900, valid=40, test=80)
@click.option("--language", "languages", multiple=True, default=("en",), help="May be repeated.")
@click.option(
    "--vocabulary", type=click.IntRange(2), default=40, show_default=True, help="Per language."
)
@click.option(
    "--words",
    type=click.Path(path_type=Path),
    help="A text file of words to use, for a language that has no list here.",
)
@_labels
@_workers
def synthetic(
    out: Path,
    train: int,
    valid: int,
    test: int,
    seed: int,
    resume: bool,
    overwrite: bool,
    languages: tuple[str, ...],
    vocabulary: int,
    words: Path | None,
    labels: str,
    workers: int | None,
) -> None:
    """Short sentences spoken by espeak-ng in many voices; the voices of the splits differ."""
    settings = SyntheticSpeech(
        languages=tuple(dict.fromkeys(languages)),
        sizes={"train": train, "valid": valid, "test": test},
        vocabulary=vocabulary,
        words=tuple(" ".join(read_lines(words)).split()) if words else (),
        labels=labels,
        seed=seed,
    )
    options = {"overwrite": overwrite, "resume": resume, "progress": _bar}
    make_synthetic(out, settings, workers=workers, **options)
    _show_splits([read_split(out, name) for name in settings.sizes])


@command.command()
@_maker(train=1000, valid=60, test=200)
@click.option(
    "--archive",
    required=True,
    type=click.Path(path_type=Path),
    help="Tar or zip archive, or folder, of DIGIT_SPEAKER_INDEX.wav or .flac.",
)
def digits(
    out: Path,
    train: int,
    valid: int,
    test: int,
    seed: int,
    resume: bool,
    overwrite: bool,
    archive: Path,
) -> None:
    """Strings of real spoken digits, cut together from the Free Spoken Digit Dataset."""
    settings = DigitStrings(sizes={"train": train, "valid": valid, "test": test}, seed=seed)
    make_digits(out, archive, settings, overwrite=overwrite, resume=resume, progress=_bar)
    _show_splits([read_split(out, name) for name in settings.sizes])


def _bar(utterances: Iterable[Any], total: int) -> Iterator[Any]:
    """A progress bar on stderr; silent in a log file."""
    yield from tqdm(utterances, total=total, unit="utterance", disable=None)


def _show_splits(splits: Sequence[Split]) -> None:
    width = max(len(split.name) for split in splits)
    for split in splits:
        count, hours = len(split.utterances), split.seconds / 3600
        click.echo(f"{split.name:{width}}  {count:9,} utterances  {hours:9.2f} h")


def _show(prepared: Preparation, out: Path) -> None:
    _show_splits(prepared.splits)
    total = sum(len(split.utterances) for split in prepared.splits)
    click.echo(f"{prepared.converted:,} of {total:,} converted to FLAC, the rest used in place")
    if prepared.dropped:
        most = list(prepared.dropped.items())[:_SHOWN]
        click.echo("characters dropped: " + ", ".join(f"{c!r} {n:,}" for c, n in most))
    for split_name, clip, reason in prepared.excluded[:_SHOWN]:
        click.echo(f"left out: {clip} in {split_name}, which {reason}")
    if len(prepared.excluded) > _SHOWN:
        click.echo(f"and {len(prepared.excluded) - _SHOWN} more; see {out / 'provenance.json'}")
