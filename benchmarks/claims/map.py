"""Error rates by labelled minutes, updates and method: one panel of the map at a time.

    python -m benchmarks.claims.map --archive digits.tar --out claims --minutes 1 --updates 500

The nano model on strings of digits. Each seed leaves another speaker out of training, validation
and the test of known speakers, and is tested on that speaker too. The learning rate of each method
is chosen with the first seed, by word errors on the validation split; all methods have equally many
to choose from. Last checkpoints. Rows are printed as they are measured; interrupted, the same
command goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from benchmarks.claims.data import Fold, make_fold, make_whole, speakers_of
from benchmarks.claims.methods import METHODS, Method
from benchmarks.harness import Report, Rows
from speechprune.manifests.split_files import split_digest
from speechprune.recipes.nano import ASSET
from speechprune.reports.runs import RunEvaluation, evaluate_checkpoint
from speechprune.training.rounds import finish_all
from speechprune.training.run import TrainingRun

#: What is measured: words of what was trained on, of speakers that were heard, and of one that was
#: not; and the characters of the latter two.
HEAD = (
    *("method", "rate", "seeds", "trained WER", "known WER", "unknown WER"),
    *("known CER", "unknown CER"),
)
_CONFIG = "demo/nano"
_SHARED = (
    "common.log_interval=50",
    "checkpoint.save_interval_updates=0",
    "dataset.validate_interval_updates=0",
)


@dataclass(frozen=True)
class Panel:
    """A place on the map.

    Attributes:
        minutes: of labelled speech.
        updates: of each training.
        folds: one for each seed, which are counted from 1.
        out: folder of its runs.
        jobs: trainings at a time.
    """

    minutes: float
    updates: int
    folds: tuple[Fold, ...]
    out: Path
    jobs: int

    def run(self, method: Method, rate: float, seed: int) -> TrainingRun:
        """A training with a learning rate."""
        name = f"{method.slug}/rate-{rate:g}-seed-{seed}"
        overrides = (
            f"task.data={self.folds[seed - 1].folder}",
            f"model.w2v_path={ASSET}",
            f"common.seed={seed}",
            *_SHARED,
            *method.settings(self.updates, rate),
        )
        return TrainingRun(name, self.out / name, _CONFIG, overrides, self.updates)

    def train(self, runs: Sequence[TrainingRun]) -> None:
        """Train what is not trained yet, several at a time."""
        finish_all([[run] for run in runs], jobs=self.jobs, tell=_tell)

    def evaluated(self, run: TrainingRun, split: str) -> RunEvaluation:
        """The error rates of a run, kept in its folder."""
        data = Path(run.data)
        manifest = split_digest(data, split, "ltr")
        return evaluate_checkpoint(run.folder, "last", data, split, manifest)[0]

    def chosen(self, method: Method) -> float:
        """The learning rate with the fewest word errors in validation; of equal ones the lowest."""
        runs = {rate: self.run(method, rate, 1) for rate in method.rates}
        self.train(list(runs.values()))
        return min(method.rates, key=lambda rate: (self.evaluated(runs[rate], "valid").wer, rate))

    def row(self, method: Method) -> Iterator[str]:
        """The cells of a method's row: the median over seeds, and the least and the most."""
        rate = self.chosen(method)
        runs = [self.run(method, rate, seed) for seed in range(1, 1 + len(self.folds))]
        self.train(runs)
        found = {
            split: [self.evaluated(run, split) for run in runs]
            for split in ("trained", "known", "unknown")
        }
        yield from (method.name, f"{rate:g}", str(len(runs)))
        yield from (_spread([each.wer for each in of_split]) for of_split in found.values())
        yield from (_spread([each.cer for each in found[split]]) for split in ("known", "unknown"))


def _tell(line: str) -> None:
    """What goes on, apart from the table."""
    click.echo(line, err=True)


def _spread(rates: Sequence[float]) -> str:
    low, middle, high = (100 * each for each in (min(rates), median(rates), max(rates)))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


@click.command(help=__doc__)
@click.option("--archive", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--minutes", type=click.FloatRange(0.1, 30), required=True, help="Labelled speech.")
@click.option("--updates", type=click.IntRange(1), required=True, help="Updates of a training.")
@click.option("--seeds", type=click.IntRange(1, 5), default=3, show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--method", "names", multiple=True, type=click.Choice(list(METHODS)))
@click.option("--save", type=click.Path(path_type=Path), help="File for the table.")
def main(
    archive: Path,
    out: Path,
    minutes: float,
    updates: int,
    seeds: int,
    jobs: int,
    names: tuple[str, ...],
    save: Path | None,
) -> None:
    whole = make_whole(out, archive)
    speakers = speakers_of(whole)[:seeds]
    folds = tuple(make_fold(whole, out / "folds", speaker, minutes) for speaker in speakers)
    panel = Panel(minutes, updates, folds, out / f"{minutes:g}-minutes-{updates}-updates", jobs)
    report = Report()
    report.tell(
        f"{minutes:g} labelled minutes, {updates} updates, seeds 1 to {seeds} without "
        f"{', '.join(speakers)}: median (least to most), %\n"
    )
    rows = Rows(report.tell, HEAD, (max(map(len, METHODS)), 5, 5, *[21] * 5))
    for name in names or METHODS:
        rows.add(*panel.row(METHODS[name]))
    if save is not None:
        report.save(save)


if __name__ == "__main__":
    main()
