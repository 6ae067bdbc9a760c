"""Pruning methods against each other: the nano model on real digits and on a synthetic language.

`python -m benchmarks.pruning --archive fsdd-5speakers.tar --out DIR` makes the data, trains by
every recipe at every sparsity, evaluates on the test split, and writes tables and figures to
`benchmarks/results/`. Interrupted, the same command goes on. About two hours on two cores.

All runs have the same number of finetuning updates, the same learning rate for weights and no
frozen updates. The rates were chosen by the validation split of the digits: for weights of 0.002
and 0.004, by the dense control; for scores of 0.002 and 0.02.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from speechprune.files import write_atomically
from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic
from speechprune.recipes import Setting, cook
from speechprune.recipes.nano import ASSET
from speechprune.reports.comparison import compare
from speechprune.reports.mask_sweep import sweep

RESULTS = Path(__file__).parent / "results"
SPARSITIES = (0.1, 0.5, 0.7, 0.9)
METHODS = ("rp", "mpi", "omp", "imp", "parp", "parp-p", "s3router", "s3router-prune")
SEEDS = {"digits": (1, 2, 3), "italian": (1,)}
UPDATES = 250
OVERRIDES = (
    "optimization.lr=[0.002]",
    "model.prune_every=10",
    "checkpoint.save_interval_updates=0",
    "dataset.validate_interval_updates=0",
)
#: Scores that start as weights move by steps like theirs, those that only rank weights by larger.
SCORE_LEARNING_RATES = {"s3router": 0.02, "s3router-prune": 0.002}

Cooked = Sequence[tuple[str, Setting]]


@click.command()
@click.option("--archive", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
def main(archive: Path, out: Path, jobs: int) -> None:
    """Compare the methods; ARCHIVE is that of the Free Spoken Digit Dataset."""
    data = {name: out / f"data-{name}" for name in ("digits", "italian", "spanish")}
    if not data["digits"].exists():
        make_digits(data["digits"], archive, DigitStrings())
    for name, code in (("italian", "it"), ("spanish", "es")):
        if not data[name].exists():
            make_synthetic(data[name], _speech(code), workers=jobs)
    for name, title in (
        ("digits", "Strings of spoken digits (Free Spoken Digit Dataset), three seeds"),
        ("italian", "Synthetic Italian, one seed"),
    ):
        recipes = _methods(data[name], out / name, SEEDS[name])
        _report(f"pruning_{name}", title, _train(recipes, jobs), out)
    _across_languages(data, out, jobs)
    _overlap(out)


def _speech(code: str) -> SyntheticSpeech:
    """Short sentences from 40 words, half an hour."""
    return SyntheticSpeech(
        languages=(code,),
        sizes={"train": 800, "valid": 40, "test": 100},
        vocabulary=40,
        sentence=(2, 4),
    )


def _setting(name: str, data: Path, out: Path, seed: int, sparsity: float) -> Setting:
    return Setting(
        out=out,
        data=data,
        model=ASSET,
        config="demo/nano",
        sparsity=sparsity,
        updates=UPDATES,
        overrides=OVERRIDES,
        seed=seed,
        round_updates=UPDATES // 3,
        score_learning_rate=SCORE_LEARNING_RATES.get(name),
        source=data.parent / "data-spanish",
        languages=(data.parent / "data-italian", data.parent / "data-spanish"),
    )


def _methods(data: Path, out: Path, seeds: Sequence[int]) -> Cooked:
    """Every method at every sparsity, those first whose rounds others share."""
    names = [("dense", seed, 0.0) for seed in seeds]
    names += [("imp", seed, max(SPARSITIES)) for seed in seeds]
    rest = [(name, seed, share) for seed in seeds for share in SPARSITIES for name in METHODS]
    names += [each for each in rest if each not in names]
    return [(name, _setting(name, data, out, seed, share)) for name, seed, share in names]


def _train(recipes: Cooked, jobs: int) -> list[Path]:
    """The folders of the final runs."""
    return [path.parent for path in cook(recipes, jobs=jobs, tell=click.echo)]


def _across_languages(data: dict[str, Path], out: Path, jobs: int) -> None:
    """Spanish masks on Italian, fixed and adjusted, and one mask for both languages."""
    here = data["italian"], out / "italian", 1
    names = [("dense", 0.0), *((n, s) for s in SPARSITIES for n in ("omp", "parp", "transfer"))]
    runs = _train([(name, _setting(name, *here, share)) for name, share in names], jobs)
    _report("pruning_transfer", "Italian with masks of Spanish and with its own", runs, out)
    joint = _train([("joint", _setting("joint", *here, share)) for share in SPARSITIES], jobs)
    for name, alone in (("italian", "dense"), ("spanish", "source-dense")):
        title = f"One mask, head and dictionary for Italian and Spanish: {name}"
        runs = [out / "italian" / alone, *joint]
        _report(f"pruning_joint_{name}", title, runs, out, data[name])


def _report(
    name: str, title: str, runs: Sequence[Path], out: Path, data: Path | None = None
) -> None:
    """The table and the figure of finished runs below ``out``."""
    comparison = compare(runs, data=data)
    comparison.draw(RESULTS / f"{name}.png")
    root = f"{out.resolve()}/"
    warnings = [f"warning: {line.replace(root, '')}" for line in comparison.warnings()]
    _write(name, [title, "", comparison.describe_in_words(), *warnings])


def _overlap(out: Path) -> None:
    """Magnitude masks of models finetuned on different data."""
    dense = [out / name / "dense" for name in ("digits", "italian")]
    dense.append(out / "italian" / "source-dense")
    checkpoints = [ASSET, *(folder / "checkpoints" / "checkpoint_last.pt" for folder in dense)]
    names = ("pretrained", "digits", "Italian", "Spanish")
    found = sweep(checkpoints, SPARSITIES, names=names)
    found.draw(RESULTS / "mask_overlap.png")
    title = "IOU of the global magnitude masks of the pretrained model and finetuned ones"
    _write("mask_overlap", [title, "", found.describe_in_words()])


def _write(name: str, lines: Sequence[str]) -> None:
    text = "\n".join(lines) + "\n"
    write_atomically(RESULTS / f"{name}.txt", text.encode())
    click.echo(text)


if __name__ == "__main__":
    main()
