"""`speechprune prepare`: corpora as fairseq manifest folders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from speechprune.manifests.classes import LabelledSplit
from speechprune.manifests.corpora import CORPORA, CorpusMaker, CorpusReader
from speechprune.manifests.corpora.base import WORKERS_HELP
from speechprune.manifests.forms import AnySplit
from speechprune.manifests.preparation import Preparation, prepare
from speechprune.tools._glue import command as glue
from speechprune.tools._options import AT_A_TIME, Number, add_options, dictionary_option

_SHOWN = (
    20  # characters and tags dropped and clips left out that are printed; provenance.json has all
)

_PATH = click.Path(path_type=Path)


class _Corpora(click.Group):
    """A command for each registered corpus, where `a_b` is the command `a-b`; and one for texts."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted([*(name.replace("_", "-") for name in CORPORA.names()), glue.name])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a corpus; None if there is no such corpus."""
        if cmd_name not in self.list_commands(ctx):
            return None
        if cmd_name == glue.name:
            return glue
        return _command(cmd_name.replace("-", "_"))


@click.group(cls=_Corpora)
def command() -> None:
    """Prepare a corpus: SPLIT.tsv, .ltr, .wrd, .spk, dict.ltr.txt, provenance.json in one folder.

    Where utterances have classes, SPLIT.lbl and dict.lbl.txt take the place of texts; sentences
    with classes, of `glue`, have folders of their own kind. Audio that is
    16 kHz mono WAV or FLAC is used in place; the rest becomes FLAC in the folder. If it is
    interrupted or refused, what was converted stays in the hidden folder .NAME.partial beside --out
    NAME, and the same command continues from it; corpora whose audio is made, in seconds, start
    again.
    """


def _command(corpus: str) -> click.Command:
    part = CORPORA.get(corpus)
    run = _reading(corpus) if issubclass(part, CorpusReader) else _making(corpus)
    run = add_options(CORPORA.options(corpus))(run)
    return click.command(corpus.replace("_", "-"), help=inspect.getdoc(part))(run)


def _out(function: Callable[..., None]) -> Callable[..., None]:
    """Where to write, and what may be there already."""
    for option in (
        dictionary_option("one made of the symbols or classes that occur, sorted"),
        click.option("--overwrite", is_flag=True, help="Replace a prepared corpus."),
        click.option("--resume", is_flag=True, help="Accept a folder that is finished already."),
        click.option("--out", required=True, type=_PATH, help="New folder to write."),
    ):
        function = option(function)
    return function


def _reading(corpus: str) -> Callable[..., None]:
    @click.argument("folder", type=_PATH)
    @_out
    @click.option("--workers", type=AT_A_TIME, help=WORKERS_HELP)
    @click.option(
        "--max-bad",
        type=Number(0, 1),
        default=0.01,
        show_default=True,
        help="Largest share of clips that may be unusable.",
    )
    def run(
        folder: Path,
        out: Path,
        dictionary: Path | None,
        resume: bool,
        overwrite: bool,
        workers: int | None,
        max_bad: float,
        **options: Any,
    ) -> None:
        reader = CORPORA.build(corpus, **options)
        assert isinstance(reader, CorpusReader)
        prepared = prepare(
            reader.read(folder),
            out,
            workers=workers,
            max_bad=max_bad,
            dictionary=dictionary,
            resume=resume,
            overwrite=overwrite,
            progress=_bar,
        )
        _show(prepared, out)

    return run


def _making(corpus: str) -> Callable[..., None]:
    @_out
    def run(
        out: Path, dictionary: Path | None, resume: bool, overwrite: bool, **options: Any
    ) -> None:
        maker = CORPORA.build(corpus, **options)
        assert isinstance(maker, CorpusMaker)
        splits = maker.make(
            out, dictionary=dictionary, overwrite=overwrite, resume=resume, progress=_bar
        )
        _show_splits(splits)

    return run


def _bar(utterances: Iterable[Any], total: int) -> Iterator[Any]:
    """A progress bar on stderr; silent in a log file."""
    from tqdm import tqdm

    yield from tqdm(utterances, total=total, unit="utterance", disable=None)


def _show_splits(splits: Sequence[AnySplit]) -> None:
    width = max(len(split.name) for split in splits)
    for split in splits:
        count, hours = len(split.utterances), split.seconds / 3600
        click.echo(f"{split.name:{width}}  {count:9,} utterances  {hours:9.2f} h")
    if isinstance(splits[0], LabelledSplit):
        for slot in splits[0].slots:
            click.echo(f"slot {slot.name}: {len(slot.classes):,} classes")


def _show(prepared: Preparation, out: Path) -> None:
    _show_splits(prepared.splits)
    total = sum(len(split.utterances) for split in prepared.splits)
    click.echo(f"{prepared.converted:,} of {total:,} converted to FLAC, the rest used in place")
    for what, dropped in (("characters", prepared.dropped), ("tags", prepared.tags)):
        if dropped:
            most = list(dropped.items())[:_SHOWN]
            click.echo(f"{what} dropped: " + ", ".join(f"{c!r} {n:,}" for c, n in most))
    if not prepared.dropped.keys().isdisjoint("[<{"):
        click.echo("words in brackets that are not known as tags were kept")
    _show_remarks(prepared)
    for split_name, clip, reason in prepared.excluded[:_SHOWN]:
        click.echo(f"left out: {clip} in {split_name}, which {reason}")
    if len(prepared.excluded) > _SHOWN:
        click.echo(f"and {len(prepared.excluded) - _SHOWN} more; see {out / 'provenance.json'}")


def _show_remarks(prepared: Preparation) -> None:
    """What is odd about clips that are used all the same, a line for each kind."""
    total = sum(len(split.utterances) for split in prepared.splits)
    for wanted in sorted({kind for _, _, kind, _ in prepared.remarks}):
        found = [row for row in prepared.remarks if row[2] == wanted]
        names = ", ".join(f"{clip} in {split}" for split, clip, _, _ in found[:_SHOWN])
        more = " and more" if len(found) > _SHOWN else ""
        click.echo(
            f"warning: {wanted}: {len(found):,} of {total:,} clips, used all the same: "
            f"{names}{more}; the first {found[0][3]}"
        )
