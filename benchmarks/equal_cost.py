"""PARP, PARP-P, OMP and IMP with equally many updates: the nano model on real digits.

    python -m benchmarks.equal_cost --archive fsdd-5speakers.tar --out DIR --quick   # minutes
    python -m benchmarks.equal_cost --archive fsdd-5speakers.tar --out DIR --save    # hours

PARP is published as one finetuning, but compared with methods that spend more: OMP finetunes twice,
IMP in a round for each 10 % and once more. Here each method has each of these three costs, beside a
dense control that trains as long. The unit is a finetuning of 250 updates, as in
`benchmarks.pruning`, whose data, rates and model these are:

- as PARP: 250 updates in all; OMP has 125 for each of its two trainings, the rounds of IMP and its
  last training are shorter in proportion;
- as OMP: 500 in all;
- as IMP: rounds of 83 and a training of 250, in all 665, 831 and 997 at 50, 70 and 90 %.

Learning rates are those of `benchmarks.pruning` at every cost: none was chosen for one of them.
With three seeds that is about 61,000 updates, trainings that several methods share counted once:
two to three hours on two cores. Given the folder of `benchmarks.pruning --full`, a fifth of them is
there already. A row is printed as soon as all its seeds are measured.
Interrupted, the same command goes on. The table, the rates of each seed (JSON) and the figure go to
DIR, or with --save to `benchmarks/results/`; `benchmarks.equal_cost_report` makes table and figure
of the JSON anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path

import click

from benchmarks.equal_cost_plans import Cell, Planner, cost, distinct_updates
from benchmarks.equal_cost_report import NAME, Row, begin_table, draw, head, save
from benchmarks.harness import (
    RESULTS,
    Report,
    device_option,
    on_device,
    precision_option,
    training_overrides,
)
from benchmarks.pruning import OVERRIDES
from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.recipes import Setting
from speechprune.recipes.base import Plan
from speechprune.recipes.nano import ASSET
from speechprune.reports.runs import evaluate_run, read_run, subset_digest
from speechprune.training.rounds import finish_all

_SUBSET = "test"


@dataclass(frozen=True)
class Scale:
    """How much is trained."""

    sparsities: tuple[float, ...] = (0.5, 0.7, 0.9)
    seeds: tuple[int, ...] = (1, 2, 3)
    updates: int = 250


QUICK = Scale((0.2,), (1,), 12)


@dataclass(frozen=True)
class Comparison:
    """Runs below a folder.

    Attributes:
        planner: of their trainings.
        jobs: plans that train at a time.
    """

    planner: Planner
    seeds: tuple[int, ...]
    jobs: int

    @cached_property
    def plans(self) -> dict[Cell, list[Plan]]:
        """Of each cell, one for each seed."""
        plan = self.planner.plan
        return {cell: [plan(cell, seed) for seed in self.seeds] for cell in self.planner.cells()}

    def rows(self) -> Iterator[Row]:
        """Each as soon as it is trained, together with those of its sparsity and budget."""
        plans = self.plans
        for _, group in groupby(plans, lambda cell: (cell.like, cell.sparsity)):
            cells = list(group)
            steps = [plan.steps for cell in cells for plan in plans[cell]]
            finish_all(steps, jobs=self.jobs, tell=partial(click.echo, err=True))
            for cell in cells:
                rates = map(_rates, plans[cell])
                yield Row(cell, dict(zip(self.seeds, rates)))


def planner_of(out: Path, scale: Scale, overrides: Sequence[str]) -> Planner:
    """The plans of a scale, below the folder ``out``, which has the data."""
    published = Setting(
        out=out / "digits",
        data=out / "data-digits",
        model=ASSET,
        config="demo/nano",
        sparsity=0.0,
        updates=scale.updates,
        overrides=tuple(overrides),
        round_updates=scale.updates // 3,
    )
    return Planner(published, scale.sparsities)


def _rates(plan: Plan) -> dict[str, float]:
    """Test error rates of what a plan makes, evaluated now or earlier."""
    (final,) = plan.results.values()
    run = read_run(final.folder)
    found, _ = evaluate_run(run, _SUBSET, subset_digest(run, _SUBSET))
    return {"wer": found.wer, "cer": found.cer}


def _compare(comparison: Comparison, results: Path) -> None:
    """Train, print, and write what was measured."""
    every = [plan for plans in comparison.plans.values() for plan in plans]
    click.echo(f"{distinct_updates(every):,} updates of {len(every)} plans", err=True)
    report, rows = Report(), []
    table = begin_table(report, head(comparison.seeds, [cost(plan) for plan in every]))
    for row in comparison.rows():
        table.add(*row.cells())
        rows.append(row)
    save(rows, results / f"{NAME}.json")
    report.save(results / f"{NAME}.txt")
    draw(rows, results / f"{NAME}.png")


@click.command(help=__doc__)
@click.option("--archive", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--quick", is_flag=True, help="One seed and few updates, to try this out.")
@click.option("--save", "keep", is_flag=True, help="Write to benchmarks/results, not to DIR.")
@device_option
@precision_option
def main(
    archive: Path, out: Path, jobs: int, quick: bool, keep: bool, device: str, precision: str
) -> None:
    if quick and keep:
        raise click.UsageError("--quick tries this out: its rates are not to be kept with --save")
    scale = QUICK if quick else Scale()
    planner = planner_of(out, scale, (*OVERRIDES, *training_overrides(device, precision)))
    with on_device(device):
        make_digits(out / "data-digits", archive, DigitStrings(), resume=True)
        _compare(Comparison(planner, scale.seeds, jobs), RESULTS if keep else out)


if __name__ == "__main__":
    main()
