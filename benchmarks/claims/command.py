"""The commands that measure a panel: what they are given, and the tables that they print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks.claims.data import make_fold, make_whole, speakers_of
from benchmarks.claims.measured import HEADS, WIDTHS, MethodResult, PanelResult
from benchmarks.claims.methods import Method, make_known
from benchmarks.claims.panel import Panel
from benchmarks.harness import RESULTS, Report
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
        report = Report()
        found = _measured(report, panel, [methods[name] for name in names or methods])
        result = PanelResult(called, minutes, updates, found)
        _tell_the_rest(report, result)
        if save:
            report.save(RESULTS / "claims" / f"{kind}{place}.txt")
            result.save(RESULTS / "claims" / f"{kind}{place}.json")

    return command


def _measured(report: Report, panel: Panel, methods: Sequence[Method]) -> tuple[MethodResult, ...]:
    """A row of word errors for each method as soon as it is measured."""
    report.tell(f"word error rates in percent: median (least to most) of {len(panel.folds)} seeds")
    report.tell()
    rows = report.table(HEADS, WIDTHS)
    found = []
    for method in methods:
        found.append(panel.measured(method))
        rows.add(*found[-1].row("wer"))
    return tuple(found)


def _tell_the_rest(report: Report, result: PanelResult) -> None:
    """Characters, and the learning rates that were tried."""
    report.tell("\ncharacter error rates\n")
    rows = report.table(HEADS, WIDTHS)
    for method in result.methods:
        rows.add(*method.row("cer"))
    report.tell("\ncharacter errors in validation by learning rate, seed 1\n")
    for method in result.methods:
        tried = ", ".join(f"{rate:g}: {100 * cer:.1f}" for rate, cer in method.tried.items())
        report.tell(f"{method.name:{WIDTHS[0]}}  {tried}")
    report.tell(f"\n{result.title}")
