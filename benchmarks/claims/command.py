"""The commands that measure a panel: what they are given, and the tables that they print."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from benchmarks.claims.data import make_fold, make_whole, speakers_of
from benchmarks.claims.measured import HEADS, WIDTHS, PanelResult, seeds_and_speakers
from benchmarks.claims.methods import Method, make_known
from benchmarks.claims.panel import Panel
from benchmarks.harness import RESULTS, Rows
from speechprune.files import digest, write_atomically
from speechprune.manifests.digit_recordings import recordings_digest
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
    @click.option(
        "--minutes", type=click.FloatRange(0.1, 30), required=True, help="Labelled speech."
    )
    @click.option("--updates", type=click.IntRange(1), required=True, help="Updates of each run.")
    @click.option("--model", type=click.Path(path_type=Path, exists=True), default=ASSET)
    @click.option("--seeds", type=click.IntRange(1, 5), default=3, show_default=True)
    @click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
    @click.option("--method", "names", multiple=True, type=click.Choice(list(methods)))
    @click.option("--save", is_flag=True, help="Keep tables in benchmarks/results/claims.")
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
        place = PanelResult(called, digest(model), recordings_digest(archive), minutes, updates, ())
        own = out / f"{called}-{place.digest[:12]}" / place.slug
        panel = Panel(model, updates, folds, own, jobs, partial(click.echo, err=True))
        file = RESULTS / "claims" / f"{kind}{called}-{place.slug}.json" if save else None
        _measure(panel, place, methods, names or list(methods), file)

    return command


def _measure(
    panel: Panel,
    place: PanelResult,
    methods: Mapping[str, Method],
    names: Sequence[str],
    file: Path | None,
) -> None:
    """A row of word errors for each method as soon as it is measured, and all tables in the end.

    Args:
        place: without methods.
        methods: in the order of tables.
        names: of those to measure.
        file: what is kept of each method at once, beside what it holds of others; None for nothing.

    Raises:
        ClickException: the file is of other measurements, which these do not go with.
    """
    result = PanelResult.load(file) if file and file.exists() else place
    seeds = seeds_and_speakers((seed, fold.speaker) for seed, fold in enumerate(panel.folds, 1))
    _refuse_others(result, place, seeds, methods)
    rows = Rows(click.echo, HEADS, WIDTHS)
    for name in names:
        found = panel.measured(methods[name])
        rows.add(*found.row("wer"))
        result = result.with_method(found, list(methods))
        if file:
            result.save(file)
            text = "".join(f"{line}\n" for line in described(result))
            write_atomically(
                file.with_name(f"{file.name.removesuffix('.json')}.txt"), text.encode()
            )
    click.echo("\n".join(described(result)))


def _refuse_others(
    known: PanelResult, place: PanelResult, seeds: str, methods: Collection[str]
) -> None:
    """Raise ClickException, before anything is trained, unless what is known of a place can have
    further methods.

    Args:
        place: which is to be measured, without methods.
        seeds: with which, in words.
        methods: that there are.
    """
    if replace(known, methods=()) != place:
        raise click.ClickException(f"what was kept is of {replace(known, methods=())}, not {place}")
    if known.methods and known.seeds_in_words != seeds:
        raise click.ClickException(f"what was kept is of {known.seeds_in_words}, not of {seeds}")
    unknown = [method.name for method in known.methods if method.name not in methods]
    if unknown:
        raise click.ClickException(f"what was kept has methods of other names: {unknown}")


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
        tried = (
            f"{rate:g}: {100 * cer:.1f}" if math.isfinite(cer) else f"{rate:g}: diverged"
            for rate, cer in method.tried.items()
        )
        yield f"{method.name:{WIDTHS[0]}}  {', '.join(tried)}"
