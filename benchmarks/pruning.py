"""Pruning methods against each other: the nano model on real digits and on a synthetic language.

    python -m benchmarks.pruning --archive fsdd-5speakers.tar --out DIR          # two minutes
    python -m benchmarks.pruning --archive fsdd-5speakers.tar --out DIR --full   # two hours

It makes the data, trains, evaluates on the test split, and prints a table of every few runs as soon
as they are measured. All recipes at every sparsity, three seeds and three languages are for --full,
which writes tables and figures to `benchmarks/results/`. Interrupted, the same command goes on.

All runs have the same number of finetuning updates, the same learning rate for weights and no
frozen updates. The rates were chosen by the validation split of the digits: for weights of 0.002
and 0.004, by the dense control; for scores of 0.002 and 0.02.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.harness import (
    RESULTS,
    device_option,
    on_device,
    precision_option,
    training_overrides,
)
from speechprune.files import write_atomically
from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic
from speechprune.recipes import Setting, cook
from speechprune.recipes.nano import ASSET
from speechprune.reports.comparison import compare
from speechprune.reports.mask_sweep import sweep

METHODS = ("rp", "mpi", "omp", "imp", "parp", "parp-p", "s3router", "s3router-prune")


@dataclass(frozen=True)
class Scale:
    """How much is trained."""

    sparsities: tuple[float, ...] = (0.1, 0.5, 0.7, 0.9)
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (1, 2, 3)
    updates: int = 250


SMALL = Scale((0.5,), ("omp", "parp", "s3router"), (1,), 20)
OVERRIDES = (
    "optimization.lr=[0.002]",
    "model.prune_every=10",
    "checkpoint.save_interval_updates=0",
    "dataset.validate_interval_updates=0",
)
#: Scores that start as weights move by steps like theirs, those that only rank weights by larger.
SCORE_LEARNING_RATES = {"s3router": 0.02, "s3router-prune": 0.002}

Cooked = Sequence[tuple[str, Setting]]


def _speech(code: str) -> SyntheticSpeech:
    """Short sentences from 40 words, half an hour."""
    return SyntheticSpeech(
        languages=(code,),
        sizes={"train": 800, "valid": 40, "test": 100},
        vocabulary=40,
        sentence=(2, 4),
    )


@dataclass(frozen=True)
class Comparison:
    """Runs below the folder ``out``; tables and figures go to ``results``."""

    scale: Scale
    out: Path
    results: Path
    jobs: int
    overrides: tuple[str, ...]

    def full(self, archive: Path) -> None:
        """Digits, and synthetic Italian with masks of its own and of Spanish."""
        for name, code in (("italian", "it"), ("spanish", "es")):
            if not self._data(name).exists():
                make_synthetic(self._data(name), _speech(code), workers=self.jobs)
        self.digits(archive)
        runs = self._train(self.methods("italian", (1,)))
        self._report("pruning_italian", "Synthetic Italian", runs)
        self._across_languages()
        self._overlap()

    def digits(self, archive: Path) -> None:
        """Every method on real speech."""
        if not self._data("digits").exists():
            make_digits(self._data("digits"), archive, DigitStrings())
        seeds = self.scale.seeds
        runs = self._train(self.methods("digits", seeds))
        title = "Strings of spoken digits (Free Spoken Digit Dataset)"
        self._report("pruning_digits", title, runs)

    def _data(self, name: str) -> Path:
        return self.out / f"data-{name}"

    def _setting(self, method: str, name: str, seed: int, sparsity: float) -> Setting:
        return Setting(
            out=self.out / name,
            data=self._data(name),
            model=ASSET,
            config="demo/nano",
            sparsity=sparsity,
            updates=self.scale.updates,
            overrides=self.overrides,
            seed=seed,
            round_updates=self.scale.updates // 3,
            score_learning_rate=SCORE_LEARNING_RATES.get(method),
            source=self._data("spanish"),
            languages=(self._data("italian"), self._data("spanish")),
        )

    def methods(self, name: str, seeds: Sequence[int]) -> Cooked:
        """Every method at every sparsity, those first whose rounds others share."""
        scale = self.scale
        runs = [("dense", seed, 0.0) for seed in seeds]
        if "imp" in scale.methods:
            runs += [("imp", seed, max(scale.sparsities)) for seed in seeds]
        rest = [
            (m, seed, share) for seed in seeds for share in scale.sparsities for m in scale.methods
        ]
        runs += [each for each in rest if each not in runs]
        return [(m, self._setting(m, name, seed, share)) for m, seed, share in runs]

    def _train(self, recipes: Cooked) -> list[Path]:
        """The folders of the final runs; a table of every few as soon as they are trained."""
        folders: list[Path] = []
        for first in range(0, len(recipes), self.jobs):
            paths = cook(recipes[first : first + self.jobs], jobs=self.jobs, tell=click.echo)
            new = [path.parent for path in paths]
            click.echo(f"\n{compare(new).describe_in_words()}\n")
            folders += new
        return folders

    def _across_languages(self) -> None:
        """Spanish masks on Italian, fixed and adjusted, and one mask for both languages."""
        names = [("dense", 0.0)]
        names += [(n, s) for s in self.scale.sparsities for n in ("omp", "parp", "transfer")]
        runs = self._train([(m, self._setting(m, "italian", 1, share)) for m, share in names])
        self._report("pruning_transfer", "Italian with masks of Spanish and with its own", runs)
        shares = self.scale.sparsities
        joint = self._train([("joint", self._setting("joint", "italian", 1, s)) for s in shares])
        for name, alone in (("italian", "dense"), ("spanish", "source-dense")):
            title = f"One mask, head and dictionary for Italian and Spanish: {name}"
            runs = [self.out / "italian" / alone, *joint]
            self._report(f"pruning_joint_{name}", title, runs, self._data(name))

    def _report(
        self, name: str, title: str, runs: Sequence[Path], data: Path | None = None
    ) -> None:
        """The table and the figure of finished runs."""
        comparison = compare(runs, data=data)
        comparison.draw(self.results / f"{name}.png", title)
        root = f"{self.out.resolve()}/"
        warnings = [f"warning: {line.replace(root, '')}" for line in comparison.warnings()]
        head = f"{title}; {comparison.trainings()}"
        self._write(name, [head, "", comparison.describe_in_words(), *warnings])

    def _overlap(self) -> None:
        """Magnitude masks of models finetuned on different data."""
        dense = [self.out / name / "dense" for name in ("digits", "italian")]
        dense.append(self.out / "italian" / "source-dense")
        checkpoints = [ASSET, *(folder / "checkpoints" / "checkpoint_last.pt" for folder in dense)]
        names = ("pretrained", "digits", "Italian", "Spanish")
        found = sweep(checkpoints, self.scale.sparsities, names=names)
        found.draw(self.results / "mask_overlap.png")
        title = "IOU of the global magnitude masks of the pretrained model and finetuned ones"
        self._write("mask_overlap", [title, "", found.describe_in_words()])

    def _write(self, name: str, lines: Sequence[str]) -> None:
        text = "\n".join(lines) + "\n"
        write_atomically(self.results / f"{name}.txt", text.encode())
        click.echo(text)


@click.command(help=__doc__)
@click.option("--archive", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--full", is_flag=True, help="All of it; what is printed is kept in results/.")
@device_option
@precision_option
def main(archive: Path, out: Path, jobs: int, full: bool, device: str, precision: str) -> None:
    overrides = (*OVERRIDES, *training_overrides(device, precision))
    with on_device(device):
        if full:
            Comparison(Scale(), out, RESULTS, jobs, overrides).full(archive)
        else:
            Comparison(SMALL, out, out, jobs, overrides).digits(archive)


if __name__ == "__main__":
    main()
