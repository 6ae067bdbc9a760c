"""The table and the figure of `benchmarks.slimming`, made of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Report
from benchmarks.slimming_figure import Point, draw
from benchmarks.slimming_work import SECONDS
from speechprune.checksums import read_json
from speechprune.intervals import seeds_in_words

NAME = "slimming_digits"
HEADS = (
    "method",
    *("WER % before", "CER % before", "WER % after", "CER % after"),
    *("parameters", "multiply-adds", "MB", "ms per s", "faster"),
)
_WIDTHS = (33, 14, 14, 14, 14, 10, 13, 3, 14, 14)
DENSE = "dense"


@dataclass(frozen=True)
class Measured:
    """Where measurements lie, and of what.

    Attributes:
        folder: of the JSON files.
        methods: their names, in the order of the table.
    """

    folder: Path
    methods: tuple[str, ...]

    @property
    def facts(self) -> Path:
        """What was compared."""
        return self.folder / "facts.json"

    def model(self, method: str, seed: int, stage: str) -> Path:
        """What was measured of a model, ``before`` or ``after`` finetuning."""
        name = method.replace(",", "").replace(" ", "-")
        return self.folder / f"{name}-{stage}-seed{seed}.json"

    def speed(self, seed: int) -> Path:
        """How long all final models of a seed take."""
        return self.folder / f"speed-seed{seed}.json"

    def rows(self) -> Iterator[Row]:
        """What was measured so far of each method that something was measured of."""
        seeds = read_json(self.facts)["seeds"]
        speeds = [read_json(self.speed(seed)) for seed in seeds if self.speed(seed).exists()]
        for method in self.methods:
            found = {
                stage: [
                    read_json(path)
                    for seed in seeds
                    if (path := self.model(method, seed, stage)).exists()
                ]
                for stage in ("before", "after")
            }
            if found["after"]:
                seconds = [each["seconds"] for each in speeds if method in each["seconds"]]
                own = tuple(each[method] for each in seconds)
                faster = tuple(each[DENSE] / each[method] for each in seconds)
                yield Row(method, found["before"], found["after"], own, faster)


@dataclass(frozen=True)
class Row:
    """What was measured of a method; one entry for each seed.

    Attributes:
        before, after: models before and after finetuning, as `slimming_work.measure` wrote it.
        seconds: for a second of audio.
        faster: than the dense model, how many times.
    """

    method: str
    before: Sequence[Mapping[str, Any]]
    after: Sequence[Mapping[str, Any]]
    seconds: Sequence[float] = ()
    faster: Sequence[float] = ()

    def cells(self) -> list[str]:
        """For people."""
        return [
            self.method,
            *(
                spread([100 * each[metric] for each in models])
                for models in (self.before, self.after)
                for metric in ("wer", "cer")
            ),
            f"{median(self.of_after('parameters')) / 1e6:.3f} M",
            f"{median(self.of_after('multiply_adds')) / 1e9:.3f} G",
            f"{median(self.of_after('bytes')) / 1e6:.1f}",
            spread([1e3 * each for each in self.seconds], 2),
            spread(self.faster, 2),
        ]

    def of_after(self, key: str) -> list[float]:
        """One thing that was measured of the final models."""
        return [each[key] for each in self.after]

    @property
    def by_size(self) -> Point:
        """Errors in percent, by parameters in millions."""
        return Point([each / 1e6 for each in self.of_after("parameters")], self._errors)

    @property
    def by_time(self) -> Point:
        """Errors in percent, by milliseconds."""
        return Point([1e3 * each for each in self.seconds], self._errors)

    @property
    def _errors(self) -> list[float]:
        return [100 * each for each in self.of_after("wer")]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Minimum, median and maximum: "9.8/10.4/12.0"; a single value alone; a dash for none."""
    if not values:
        return "-"
    shown = (min(values), median(values), max(values)) if len(values) > 1 else values
    return "/".join(f"{value:.{digits}f}" for value in shown)


def write_report(measured: Measured, folder: Path) -> None:
    """Print the table row by row, and write it and the figure to ``folder``."""
    facts = read_json(measured.facts)
    report = Report()
    for line in _head(facts, measured):
        report.tell(line)
    report.tell()
    table = report.table(HEADS, _WIDTHS)
    rows = list(measured.rows())
    for row in rows:
        table.add(*row.cells())
    report.save(folder / f"{NAME}.txt")
    if rows:
        _draw(rows, facts, folder / f"{NAME}.png")


def _head(facts: Mapping[str, Any], measured: Measured) -> Iterator[str]:
    seeds, updates = facts["seeds"], facts["updates"]
    kept, whole = facts["kept"], facts["whole"]
    told = seeds_in_words(seeds)
    yield f"Strings of spoken digits (Free Spoken Digit Dataset), test; {told}"
    yield (
        f"nano model, finetuned with {facts['dense_updates']} updates; each method begins with that"
        f" and has {updates} updates"
    )
    yield (
        f"to be kept: {kept:,} of {whole:,} parameters of the encoder ({kept / whole:.1%}), as "
        f"without {facts['dropped']} layers; by shares {facts['heads']:.4g} of the heads and "
        f"{facts['channels']:.4g} of the channels go, for PARP {facts['sparsity']:.4g} of weights "
        "and biases"
    )
    yield "before: without those updates, where units do not go during them; after: with them"
    yield (
        "parameters (of PARP, those that are not masked) and multiply-adds are of the encoder, for "
        f"{SECONDS} s of audio; MB of the whole model in float32"
    )
    yield (
        "ms per s: time for a second of audio, the median of models that take turns on one thread; "
        "faster: than dense"
    )
    machines = {
        read_json(measured.speed(seed))["machine"]
        for seed in seeds
        if measured.speed(seed).exists()
    }
    yield from (f"speed on {machine}" for machine in sorted(machines))
    if len(seeds) > 1:
        yield "of several seeds: minimum/median/maximum"


def _draw(rows: Sequence[Row], facts: Mapping[str, Any], path: Path) -> None:
    kept = facts["kept"] / facts["whole"]
    title = (
        f"Digits, {kept:.0%} of the encoder's parameters kept: {facts['updates']} updates from a "
        f"dense model finetuned with {facts['dense_updates']}; median, minimum and maximum of "
        f"{seeds_in_words(facts['seeds'])}"
    )
    sizes = {row.method: row.by_size for row in rows}
    times = {row.method: row.by_time for row in rows if row.seconds}
    draw(sizes, times, path, title)
