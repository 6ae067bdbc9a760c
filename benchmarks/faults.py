"""Damaged files and kills: what becomes of commands, row by row.

    python -m benchmarks.faults --kind audio --kind finetuned --number 200
    python -m benchmarks.faults --kind kills --number 10

Each file of a kind is damaged again and again, by a seed, and given to all commands that read it. A
training run is killed at random and resumed, and has to end as one that was left alone, to the bit.
The exit status is 1 if a command showed a traceback, hung, ran what it read, or left half-written
output behind, or if a run ended otherwise.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from pathlib import Path

import click

from benchmarks.damaged_files import FAULTS, KINDS, OUTCOMES, trials, write_examples
from benchmarks.harness import Report
from benchmarks.kills import KILLS, kill_and_resume, nano_run

#: Faults that are shown in full.
_SHOWN = 20


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option(
    "--kind",
    "kinds",
    type=click.Choice([*KINDS, KILLS]),
    multiple=True,
    default=list(KINDS),
    help="What to damage; all kinds of files by default.",
)
@click.option(
    "--number",
    type=click.IntRange(1, 100_000),
    default=20,
    help="Number of damaged files of each kind, or of kills.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the damage.")
@click.option("--save", type=click.Path(path_type=Path), help="File for the table.")
@click.pass_context
def main(
    context: click.Context, kinds: tuple[str, ...], number: int, seed: int, save: Path | None
) -> None:
    logging.disable(logging.WARNING)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        files = [kind for kind in kinds if kind != KILLS]
        faults = damage(report, Path(folder), files, number, seed) if files else 0
        if KILLS in kinds:
            faults += kill_and_resume(report, Path(folder) / KILLS, number, seed)
    if save is not None:
        report.save(save)
    context.exit(1 if faults else 0)


def damage(report: Report, folder: Path, kinds: list[str], number: int, seed: int) -> int:
    """Tell a row for each kind of file; returns the number of faults, and shows the first."""
    run = nano_run(folder / "training")
    examples = folder / "examples"
    write_examples(examples, run.pretrained, run.finetune("run", updates=2), run.data)
    table = report.table(("kind", "commands", *OUTCOMES), widths=(12,))
    shown: list[str] = []
    for name in kinds:
        found: Counter[str] = Counter()
        for trial in trials(KINDS[name], examples, folder / "out", number, seed):
            found[trial.outcome] += 1
            if trial.outcome in FAULTS:
                shown.append(f"{trial.outcome}: {trial.line}\n  {trial.damage}\n  {trial.told}")
        table.add(name, str(sum(found.values())), *(str(found[each]) for each in OUTCOMES))
    for fault in shown[:_SHOWN]:
        report.tell(f"\n{fault}")
    return len(shown)


if __name__ == "__main__":
    main()
