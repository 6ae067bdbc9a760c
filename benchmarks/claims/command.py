"""The commands that measure a panel: what they are given, and the tables that they print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks.claims.data import make_fold, make_whole, speakers_of
from benchmarks.claims.measured import HEADS, WIDTHS, MethodResult, PanelResult
from benchmarks.claims.methods import Method, make_known
from benchmarks.claims.panel import Panel
from benchmarks.harness import RESULTS, Rows
from speechprune.files import write_atomically
from speechprune.recipes.nano import ASSET

#: What the model that comes along is called in tables.
_NANO = "nano"


def panel_command(methods: Mapping[str, Method], about: str, kind: str = "") -> click.Command:
    """A command that measures one panel of some methods.

    Args:
        about: its help.
        kind: what its files are called by, besides the place on the map.
    """

    @click.command(help=about)
    @click.option("--archive", type=click.Path(path_type=Path, exists=True), required=True)
    @click.option("--out", type=click.Path(path_type=Path), required=True)
    @click.option("--minutes", type=click.FloatRange(0.1, 30), required=True, help="Labelled.")
    @click.option("--updates", type=click.IntRange(1), required=True, help="Of a training.")
    @click.option("--model", type=click.Path(path_type=Path, exists=True), default=ASSET)
    @click.option("--seeds", type=click.IntRange(1, 5), default=3, show_default=True)
    @click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
    @click.option("--method", "names", multiple=True, type=click.Choice(list(methods)))
    @click.option("--save", is_flag=True, help="Write to benchmarks/results/claims.")
    def command(
        archive: Path,
        out: Path,
        minutes: float,
        updates: int,
        model: Path,
        seeds: int,
        jobs: int,
        names: tuple[str, ...],
        save: bool,
    ) -> None:
        make_known()
        whole = make_whole(out, archive)
        speakers = speakers_of(whole)[:seeds]
        folds = tuple(make_fold(whole, out / "folds", speaker, minutes) for speaker in speakers)
        called = _NANO if model == ASSET else model.stem
        place = f"{called}-{minutes:g}-minutes-{updates}-updates"
        panel = Panel(model, updates, folds, out / place, jobs, partial(click.echo, err=True))
        found = _measured(panel, [methods[name] for name in names or methods])
        result = PanelResult(called, minutes, updates, found)
        file = RESULTS / "claims" / f"{kind}{place}.json"
        if save and file.exists():
            result = PanelResult.load(file).with_methods(found)
        lines = list(described(result))
        for line in lines:
            click.echo(line)
        if save:
            result.save(file)
            write_atomically(
                file.parent / f"{kind}{place}.txt", "".join(f"{line}\n" for line in lines).encode()
            )

    return command


def _measured(panel: Panel, methods: Sequence[Method]) -> tuple[MethodResult, ...]:
    """A row of word errors for each method as soon as it is measured."""
    rows = Rows(click.echo, HEADS, WIDTHS)
    found = []
    for method in methods:
        found.append(panel.measured(method))
        rows.add(*found[-1].row("wer"))
    return tuple(found)


def described(result: PanelResult) -> Iterator[str]:
    """The tables of a panel, and the learning rates that were tried, line by line."""
    yield result.title
    for kind, errors in (("wer", "word"), ("cer", "character")):
        yield f"\n{errors} error rates in percent: median of seeds (least to most)\n"
        lines: list[str] = []
        rows = Rows(lines.append, HEADS, WIDTHS)
        for method in result.methods:
            rows.add(*method.row(kind))
        yield from lines
    yield "\ncharacter errors in validation by learning rate, seed 1\n"
    for method in result.methods:
        tried = ", ".join(f"{rate:g}: {100 * cer:.1f}" for rate, cer in method.tried.items())
        yield f"{method.name:{WIDTHS[0]}}  {tried}"
