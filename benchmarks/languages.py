"""Which task of a bank is surest of recordings in a language: language identification for free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.harness import RESULTS, Report, machine
from speechprune.decoding.accuracy import Accuracy
from speechprune.decoding.bank import BankModel
from speechprune.decoding.inference import read_audio, sample_rate
from speechprune.manifests.verbatim import read_verbatim

#: Recordings that are heard at a time.
_BATCH = 16


def chosen(bank: BankModel, folder: Path, split: str) -> Counter[str]:
    """How many utterances of a split each task is surest of."""
    lines = read_verbatim(folder, split, others=())
    rate = sample_rate(bank.use(bank.recognisers()[0]))
    found: Counter[str] = Counter()
    for start in range(0, len(lines), _BATCH):
        paths = lines.paths[start : start + _BATCH]
        heard = bank.hear([read_audio(Path(lines.root) / path, rate) for path in paths])
        found.update(each.task for each in heard)
    return found


def others(counts: Counter[str], name: str) -> str:
    """What recordings are taken for instead, most often first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{task} {count}" for task, count in ranked if task != name)


def in_percent(accuracy: Accuracy) -> str:
    """With its 95 % confidence interval."""
    low, high = accuracy.interval
    return f"{100 * accuracy.rate:.1f} ({100 * low:.1f} to {100 * high:.1f})"


@click.command()
@click.argument("bank", type=click.Path(path_type=Path))
@click.option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="NAME=DATA",
    help="Task of the bank, and the folder of manifests in its language; repeatable.",
)
@click.option("--subset", default="test", show_default=True, help="Name of the manifest.")
@click.option("--save", is_flag=True, help="Write the table to benchmarks/results.")
def main(bank: Path, tasks: Sequence[str], subset: str, save: bool) -> None:
    """Print how often the task of BANK that is surest of a recording is that of its language."""
    report = Report()
    report.tell(machine())
    model = BankModel(bank)
    report.tell(f"\n{len(model.recognisers())} tasks; by chance 1 in {len(model.recognisers())}\n")
    table = report.table(("language", "utterances", "right %", "taken for"), (0, 0, 20), left=1)
    right = total = 0
    for text in tasks:
        name, _, folder = text.partition("=")
        counts = chosen(model, Path(folder), subset)
        each = Accuracy(counts[name], counts.total())
        right, total = right + each.correct, total + each.utterances
        table.add(name, str(each.utterances), in_percent(each), others(counts, name))
    table.add("all", str(total), in_percent(Accuracy(right, total)), "")
    if save:
        report.save(RESULTS / "bank_identification.txt")


if __name__ == "__main__":
    main()
