"""Smaller models of one size against each other: the nano model on real digits.

    python -m benchmarks.slimming --archive fsdd-5speakers.tar --out DIR --quick   # two minutes
    python -m benchmarks.slimming --archive fsdd-5speakers.tar --out DIR           # one seed
    python -m benchmarks.slimming --archive fsdd-5speakers.tar --out DIR --full    # three seeds

For each seed it finetunes the model, and makes smaller ones of it: with heads and channels removed
while training (by each criterion, within each scope, by a budget, with distillation), at once (with
and without repair) and by gates; without layers; and, with as many weights left, masked by PARP.
All have as many parameters of the encoder, to a head or a channel, and as many updates after the
first; so has the dense model as a control. What is measured is printed at once, and lies in
DIR/measured as JSON, of which the table and the figure are made, again with --table. Interrupted,
the same command goes on.

Layers are chosen on the validation split, units on training data; the table is of the test split.
Everything runs on the CPU, and time is measured on one thread once nothing else is to be done.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks.harness import RESULTS, training_overrides
from benchmarks.slimming_methods import DROPPED, METHODS, Start
from benchmarks.slimming_report import Measured, write_report
from benchmarks.slimming_work import (
    Made,
    Size,
    begin,
    measure,
    measure_speed,
    size_without_layers,
)
from speechprune.checksums import read_json, write_json
from speechprune.ending import Ended, end_on_signals, notice
from speechprune.files import make_folder
from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.recipes.nano import ASSET
from speechprune.training.rounds import Round, finish_all


@dataclass(frozen=True)
class Scale:
    """How much is trained and measured."""

    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (1, 2, 3)
    dense_updates: int = 400
    updates: int = 250
    repeats: int = 9


ONE_SEED = Scale(seeds=(1,))
QUICK = Scale(
    ("dense", "auto-slim, snip_momentum", "one shot, magnitude, repaired"), (1,), 20, 20, 3
)
#: As in `benchmarks.pruning`.
OVERRIDES = (
    "optimization.lr=[0.002]",
    "checkpoint.save_interval_updates=0",
    "dataset.validate_interval_updates=0",
    *training_overrides("cpu", "fp32"),
)


@dataclass(frozen=True)
class Comparison:
    """Runs and measurements below the folder ``out``."""

    scale: Scale
    out: Path
    jobs: int
    workers: Executor

    def run(self) -> None:
        """Train and measure what is left to be."""
        size = self.workers.submit(size_without_layers, ASSET, DROPPED).result()
        self._note(size)
        starts = {seed: self._start(seed, size) for seed in self.scale.seeds}
        plans = [
            list(self._steps(method, start))
            # Those first that take longest; the seeds of a method one after the other.
            for method in sorted(self.scale.methods, key=lambda name: "distilled" not in name)
            for start in starts.values()
        ]
        finish_all(plans, jobs=self.jobs, tell=click.echo)
        for start in starts.values():
            self._measure_speed(start)

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def measured(self) -> Measured:
        """Where measurements lie."""
        return measured_in(self.out)

    def _note(self, size: Size) -> None:
        """What is compared, for the table."""
        scale = asdict(self.scale)
        facts = {key: scale[key] for key in ("seeds", "dense_updates", "updates")}
        make_folder(self.measured.folder)
        write_json(self.measured.facts, {**facts, **asdict(size), "dropped": DROPPED})

    def _start(self, seed: int, size: Size) -> Start:
        scale, folder = self.scale, self.out / f"seed{seed}"
        return Start(
            folder,
            self.data,
            seed,
            scale.dense_updates,
            scale.updates,
            OVERRIDES,
            size,
            self.workers,
        )

    def _steps(self, method: str, start: Start) -> Iterator[Round]:
        """What makes the models of a method and measures them."""
        chain = METHODS[method](start)
        stages = {"before": chain.before, "after": chain.after}
        measurements = {
            checkpoint: self._measurement(method, start.seed, stage, checkpoint)
            for stage, checkpoint in stages.items()
            if checkpoint is not None
        }
        for step in (*start.steps, *chain.steps):
            yield step
            if step.makes in measurements:
                yield measurements[step.makes]

    def _measurement(self, method: str, seed: int, stage: str, checkpoint: Path) -> Made:
        target = self.measured.model(method, seed, stage)

        def tell() -> None:
            click.echo(_in_words(f"{method}, {stage}", seed, target))

        name = f"seed {seed}, evaluation of {method}, {stage}"
        settings = {"data": self.data}
        return Made(name, target, checkpoint, measure, settings, self.workers, tell)

    def _measure_speed(self, start: Start) -> None:
        models = {name: METHODS[name](start).after for name in self.scale.methods}
        target = self.measured.speed(start.seed)
        if not target.exists():
            repeats = self.scale.repeats
            measuring = self.workers.submit(
                measure_speed, models, target, data=self.data, repeats=repeats
            )
            measuring.result()
            for name, seconds in read_json(target)["seconds"].items():
                click.echo(f"seed {start.seed}: {name}: {1e3 * seconds:.2f} ms per s of audio")


def measured_in(out: Path) -> Measured:
    """Where the measurements of a comparison lie."""
    return Measured(out / "measured", tuple(METHODS))


def _in_words(name: str, seed: int, path: Path) -> str:
    found = read_json(path)
    units = " ".join(f"{heads}+{channels}" for heads, channels in found["units"])
    return (
        f"seed {seed}: {name}: WER {100 * found['wer']:.1f} %, CER {100 * found['cer']:.1f} %, "
        f"{found['parameters']:,} parameters, {found['multiply_adds'] / 1e9:.3f} G multiply-adds, "
        f"heads and channels {units}"
    )


@click.command(help=__doc__)
@click.option("--archive", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--full", is_flag=True, help="Three seeds; table and figure go to results/.")
@click.option("--quick", is_flag=True, help="Three methods and few updates, to try this out.")
@click.option("--table", is_flag=True, help="Measure nothing: make the table of what there is.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the table and the figure, in place of the usual one.",
)
def main(
    archive: Path,
    out: Path,
    jobs: int,
    full: bool,
    quick: bool,
    table: bool,
    results: Path | None,
) -> None:
    if full and quick:
        raise click.UsageError("--full and --quick contradict each other")
    # The library would take a GPU if it saw one, here and in processes that are started from here.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    end_on_signals()
    try:
        if not table:
            scale = Scale() if full else QUICK if quick else ONE_SEED
            _compare(scale, archive, out, jobs)
        write_report(measured_in(out), make_folder(results or (RESULTS if full else out)))
    except Ended as ended:
        notice()
        raise SystemExit(128 + ended.number) from None


def _compare(scale: Scale, archive: Path, out: Path, jobs: int) -> None:
    make_digits(out / "data", archive, DigitStrings(), resume=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, begin) as workers:
        Comparison(scale, out, jobs, workers).run()


if __name__ == "__main__":
    main()
