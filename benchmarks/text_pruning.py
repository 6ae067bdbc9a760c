"""Pruning methods on a RoBERTa of nano size in fairseq's loop, and masks moved to another task.

    python -m benchmarks.text_corpora --archive vaderSentiment-3.3.2.tar.gz --out rated
    speechprune pretrain-nano-text --train rated/plain/train.txt --valid rated/plain/valid.txt \\
        --out nano.pt
    python -m benchmarks.text_pruning --model nano.pt --corpora rated --out DIR

Two tasks are trained: whether a film snippet is positive (accuracy), and how positive people found
it (the mean of Pearson's and Spearman's correlation). All runs have the same updates, batches,
head and learning rate of weights; the rates are the best of the dense control, and for scores of
S3-Router at 50 %, on the validation split. The untrained control starts from the same network
before its pretraining. Interrupted, the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import click

from benchmarks.harness import RESULTS, Report, machine, spread
from speechprune.decoding.sentences import evaluate_sentences
from speechprune.manifests.glue.preparation import TextSettings, prepare_text
from speechprune.masking.overlap import overlap
from speechprune.models.loading import LoadedSentences, load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.recipes import Setting
from speechprune.recipes.base import RECIPES
from speechprune.recipes.nano_text import dictionary_beside, pretrain_nano_text
from speechprune.recipes.setting import path_value
from speechprune.training.rounds import finish_all
from speechprune.training.run import TrainingRun

SPARSITIES = (0.5, 0.7, 0.9)
METHODS = {"MPI": "mpi", "OMP": "omp", "PARP": "parp", "S3-Router": "s3router"}
CONFIGS = {"sign": "glue/sst-2", "value": "glue/sts-b"}
RATES = (5e-4, 1e-3, 2e-3)
SCORE_RATES = (1e-4, 5e-4, 2e-3, 1e-2)


@dataclass(frozen=True)
class Lab:
    """Runs on one pretrained model and the two tasks, below a folder.

    Attributes:
        rate: learning rate of weights.
        score_rate: that of scores.
    """

    model: Path
    corpora: Path
    out: Path
    updates: int
    rate: float = RATES[0]
    score_rate: float = SCORE_RATES[0]

    def data(self, task: str) -> Path:
        """The prepared folder of a task."""
        folder = self.out / f"data-{task}"
        settings = TextSettings(f"movies-{task}", dictionary=dictionary_beside(self.model))
        prepare_text(self.corpora / f"movies-{task}", folder, settings, resume=True)
        return folder

    def untrained(self) -> Path:
        """The network as pretraining begins it, but for one update at a rate of 0."""
        path = self.out / "untrained.pt"
        if not path.exists():
            texts = (self.corpora / "plain" / name for name in ("train.txt", "valid.txt"))
            still = ("optimization.lr=[0.0]",)
            pretrain_nano_text(path, self.out / "untrained", *texts, overrides=still, updates=1)
        return path

    def setting(self, task: str, seed: int, sparsity: float, model: Path | None = None) -> Setting:
        """What the runs of a task and seed have in common; their folder is named by the rates."""
        beginning = "untrained" if model else f"pretrained-{self.rate:g}-{self.score_rate:g}"
        return Setting(
            out=self.out / f"{task}-{beginning}",
            data=self.data(task),
            model=model or self.model,
            config=CONFIGS[task],
            sparsity=sparsity,
            updates=self.updates,
            overrides=(
                *("task.max_positions=128", "common.fp16=false", "common.cpu=true"),
                *("lr_scheduler.warmup_updates=20", f"optimization.lr=[{self.rate!r}]"),
                *("dataset.num_workers=0", "dataset.validate_interval=1000"),
                *("model.prune_every=20", "checkpoint.save_interval=1000"),
            ),
            seed=seed,
            score_learning_rate=self.score_rate,
        )

    def train(self, method: str, setting: Setting) -> TrainingRun:
        """The final run of a method, at its end."""
        plan = RECIPES[method].plan(setting)
        finish_all([plan.steps], tell=partial(click.echo, err=True))
        (run,) = plan.results.values()
        return run

    def measure(self, run: TrainingRun, split: str = "test") -> float:
        """The task's first metric, in percent."""
        loaded = load_finetuned(run.checkpoint, Path(run.data))
        assert isinstance(loaded, LoadedSentences)
        return 100 * (1 - evaluate_sentences(loaded, Path(run.data), split).error)


def choose_rates(report: Report, lab: Lab) -> Lab:
    """Each kind of parameters' rate that is best on the validation split of the first task."""
    report.tell("accuracy on the validation split of movies-sign by learning rate, in percent\n")
    table = report.table(("method", "rate", "accuracy"), (12, 8))

    def best(method: str, tried: dict[float, Lab]) -> Lab:
        found = {}
        for rate, each in tried.items():
            run = each.train(method, each.setting("sign", 1, 0.5))
            found[rate] = each.measure(run, "valid")
            table.add(method, f"{rate:g}", f"{found[rate]:.1f}")
        return tried[max(found, key=found.__getitem__)]

    lab = best("dense", {rate: replace(lab, rate=rate) for rate in RATES})
    return best("s3router", {rate: replace(lab, score_rate=rate) for rate in SCORE_RATES})


def show_methods(report: Report, lab: Lab, seeds: Sequence[int]) -> None:
    """A row for each method and sparsity: the median over seeds, and the extremes."""
    report.tell("\naccuracy on the test split of movies-sign, in percent\n")
    table = report.table(("method", "removed", "median", "least", "most"), (12,))

    def add(name: str, method: str, sparsity: float, model: Path | None = None) -> None:
        settings = [lab.setting("sign", seed, sparsity, model) for seed in seeds]
        found = [lab.measure(lab.train(method, setting)) for setting in settings]
        table.add(name, f"{100 * sparsity:.0f} %", *(f"{value:.1f}" for value in spread(found)))

    add("untrained", "dense", 0.0, lab.untrained())
    add("dense", "dense", 0.0)
    for name, method in METHODS.items():
        for sparsity in SPARSITIES:
            add(name, method, sparsity)


def show_transfer(report: Report, lab: Lab, seeds: Sequence[int]) -> None:
    """PARP's mask of the one task on the other, fixed and adjusted, and how much of it stays."""
    report.tell("\nPARP's mask of movies-sign on movies-value: mean of Pearson's and Spearman's")
    report.tell("correlation in percent, and the share of the mask that stays; medians of seeds\n")
    heads = ("removed", "own mask", "fixed", "adjusted", "stays", "in own mask", "by chance")
    table = report.table(heads, (8,))
    for sparsity in SPARSITIES:
        rows = [_transferred(lab, sparsity, seed) for seed in seeds]
        medians = (f"{median(column):.1f}" for column in zip(*rows))
        table.add(f"{100 * sparsity:.0f} %", *medians)


def _transferred(lab: Lab, sparsity: float, seed: int) -> tuple[float, ...]:
    """The metric with the own mask, the fixed and the adjusted one; and, in percent, what of the
    kept entries of the source's mask the adjusted and the own one have in common with it."""
    source = lab.train("parp", lab.setting("sign", seed, sparsity)).checkpoint
    setting = lab.setting("value", seed, sparsity)
    own = lab.train("parp", setting)
    fixed = setting.masked(f"moved-fixed-{sparsity}", source)
    given = f"model.mask_file={path_value(source)}"
    adjusted = setting.parp(f"moved-adjusted-{sparsity}", given, needs=[source])
    finish_all([[fixed], [adjusted]], tell=partial(click.echo, err=True))
    first = read_mask_set(source)
    shared = [overlap(first, read_mask_set(run.checkpoint)) for run in (adjusted, own)]
    shares = [found.both / found.first for found in shared]
    by_chance = shared[1].both_by_chance / shared[1].first
    metrics = map(lab.measure, (own, fixed, adjusted))
    return (*metrics, *(100 * share for share in (*shares, by_chance)))


@click.command()
@click.option("--model", required=True, type=click.Path(path_type=Path), help="The nano RoBERTa.")
@click.option("--corpora", required=True, type=click.Path(path_type=Path), help="Rated texts.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of all runs.")
@click.option("--seeds", default=3, show_default=True, help="How many, from 1.")
@click.option("--updates", default=200, show_default=True, help="Updates of each run.")
@click.option("--save", is_flag=True, help="Write the tables to benchmarks/results.")
def main(model: Path, corpora: Path, out: Path, seeds: int, updates: int, save: bool) -> None:
    """Train the nano RoBERTa under masks of several methods and print what each is worth."""
    report, chosen = Report(), range(1, seeds + 1)
    report.tell(f"{machine()}; {updates} updates; seeds {', '.join(map(str, chosen))}")
    lab = choose_rates(report, Lab(model, corpora, out, updates))
    show_methods(report, lab, chosen)
    show_transfer(report, lab, chosen)
    if save:
        report.save(RESULTS / "text_pruning.txt")


if __name__ == "__main__":
    main()
