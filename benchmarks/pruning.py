"""Pruning methods against each other: the nano model on real digits and on a synthetic language.

`python -m benchmarks.pruning --archive fsdd-5speakers.tar --out DIR` makes the data, trains by
every recipe at every sparsity, evaluates on the test split, and writes tables and figures to
`benchmarks/results/`. Interrupted, the same command goes on.

All runs have the same number of finetuning updates, the same learning rate for weights and no
frozen updates; the rates were chosen by the validation split: see README.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from speechprune.comparison import compare
from speechprune.files import write_atomically
from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic
from speechprune.nano import ASSET
from speechprune.recipes import Setting, cook

RESULTS = Path(__file__).parent / "results"
SPARSITIES = (0.1, 0.5, 0.7, 0.9)
METHODS = ("rp", "mpi", "omp", "imp", "parp", "parp-p", "s3router", "s3router-prune")
SEEDS = {"digits": (1, 2, 3), "italian": (1,)}

TITLES = {
    "digits": "Strings of spoken digits (Free Spoken Digit Dataset), nano model, three seeds",
    "italian": "Synthetic Italian, 40 words, nano model, one seed",
}

UPDATES = 250
PRUNE_EVERY = 10
#: Scores that start as weights move by steps like theirs, those that only rank weights by larger.
SCORE_LEARNING_RATES = {"s3router": 0.02, "s3router-prune": 0.002}
OVERRIDES = (
    "optimization.lr=[0.002]",
    f"model.prune_every={PRUNE_EVERY}",
    "checkpoint.save_interval_updates=0",
    "dataset.validate_interval_updates=0",
)

ITALIAN = SyntheticSpeech(
    languages=("it",),
    sizes={"train": 800, "valid": 40, "test": 100},
    vocabulary=40,
    sentence=(2, 4),
)


@click.command()
@click.option("--archive", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
def main(archive: Path, out: Path, jobs: int) -> None:
    """Compare the methods; ARCHIVE is that of the Free Spoken Digit Dataset."""
    folders = {"digits": out / "data-digits", "italian": out / "data-italian"}
    if not folders["digits"].exists():
        make_digits(folders["digits"], archive, DigitStrings())
    if not folders["italian"].exists():
        make_synthetic(folders["italian"], ITALIAN, workers=jobs)
    for data, folder in folders.items():
        recipes = _in_order(folder, out / data, SEEDS[data])
        summaries = cook(recipes, jobs=jobs, tell=click.echo)
        _report(data, [path.parent for path in summaries])


def _report(data: str, runs: list[Path]) -> None:
    """The table and the figure of what ended on one corpus."""
    comparison = compare(runs)
    comparison.draw(RESULTS / f"pruning_{data}.png")
    lines = [TITLES[data], "", comparison.describe_in_words()]
    lines += [f"warning: {line}" for line in comparison.warnings()]
    text = "\n".join(lines)
    write_atomically(RESULTS / f"pruning_{data}.txt", f"{text}\n".encode())
    click.echo(text)


def _in_order(data: Path, out: Path, seeds: Iterable[int]) -> list[tuple[str, Setting]]:
    """Recipes, those first whose rounds others share."""

    def pair(name: str, seed: int, sparsity: float) -> tuple[str, Setting]:
        return name, setting(name, seed, sparsity)

    def setting(name: str, seed: int, sparsity: float) -> Setting:
        return Setting(
            out=out / f"seed{seed}",
            data=data,
            model=ASSET,
            config="demo/nano",
            sparsity=sparsity,
            updates=UPDATES,
            overrides=OVERRIDES,
            seed=seed,
            round_updates=UPDATES // 3,
            score_learning_rate=SCORE_LEARNING_RATES.get(name),
        )

    seeds = tuple(seeds)
    first = [pair("dense", seed, 0.0) for seed in seeds]
    first += [pair("imp", seed, max(SPARSITIES)) for seed in seeds]
    rest = [pair(name, seed, share) for seed in seeds for share in SPARSITIES for name in METHODS]
    return first + [recipe for recipe in rest if recipe not in first]


if __name__ == "__main__":
    main()
