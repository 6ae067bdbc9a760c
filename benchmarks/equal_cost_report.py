"""Table and figure of `benchmarks.equal_cost`, from the rates of each seed.

    python -m benchmarks.equal_cost_report benchmarks/results/equal_cost_digits.json

draws them anew, beside that file, without any training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.equal_cost_plans import DENSE, METHODS, Cell
from benchmarks.harness import Report, Rows
from speechprune.checksums import read_json, write_json
from speechprune.curves import Curve, Panel, line_panels
from speechprune.intervals import Interval, training_in_words

NAME = "equal_cost_digits"
_HEADS = ("cost as", "removed", "method", "updates in all", "WER %", "CER %")
_WIDTHS = (7, 7, 13, 14, 21, 21)
_CONTROL = "dense control"


@dataclass(frozen=True)
class Row:
    """A cell, and what each seed gave.

    Attributes:
        rates: "wer" and "cer" by seed, shares.
    """

    cell: Cell
    rates: Mapping[int, Mapping[str, float]]

    def percent(self, rate: str) -> Interval:
        """A rate over seeds."""
        return Interval.of([100 * each[rate] for each in self.rates.values()])

    def cells(self) -> list[str]:
        """As the table has it."""
        cell = self.cell
        return [
            cell.like,
            f"{100 * cell.sparsity:.0f} %",
            _CONTROL if cell.method == DENSE else cell.method,
            f"{cell.updates:,}",
            *(self.percent(rate).in_words() for rate in ("wer", "cer")),
        ]


def head(seeds: Sequence[int], updates: Sequence[int]) -> str:
    """What the table and the figure are of."""
    told = training_in_words(updates, seeds)
    return f"Strings of spoken digits (Free Spoken Digit Dataset), test; {told} in all"


def begin_table(report: Report, title: str) -> Rows:
    """Tell what comes, and the head of the table."""
    report.tell(title)
    report.tell("cost as: whose published course of training gives the updates; rates: median of")
    report.tell("seeds (least to most)\n")
    return report.table(_HEADS, _WIDTHS, left=3)


def save(rows: Sequence[Row], path: Path) -> None:
    """Write the rates of each seed."""
    told = [
        {**asdict(row.cell), "rates": {str(s): r for s, r in row.rates.items()}} for row in rows
    ]
    write_json(path, {"rows": told})


def load(path: Path) -> list[Row]:
    """The rows that were saved."""
    return [_row(told) for told in read_json(path, "restore it")["rows"]]


def _row(told: Mapping[str, Any]) -> Row:
    cell = Cell(**{name: told[name] for name in Cell.__dataclass_fields__})
    return Row(cell, {int(seed): rates for seed, rates in told["rates"].items()})


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw WER against updates in all, a panel for each sparsity."""
    dense = [row for row in rows if row.cell.method == DENSE]
    panels = []
    for sparsity in sorted({row.cell.sparsity for row in rows} - {0.0}):
        found = [row for row in rows if row.cell.sparsity == sparsity]
        budgets = {row.cell.updates for row in found}
        drawn = {_CONTROL: [row for row in dense if row.cell.updates in budgets]}
        drawn |= {method: [r for r in found if r.cell.method == method] for method in METHODS}
        curves = {name: _curve(own) for name, own in drawn.items() if own}
        across = f"updates in all, {100 * sparsity:.0f} % removed"
        panels.append(Panel(across, "WER (%)", curves, logarithmic=True))
    line_panels(panels, path, head(*_trainings(rows)))


def _curve(rows: Sequence[Row]) -> Curve:
    ordered = sorted(rows, key=lambda row: row.cell.updates)
    return Curve.of_intervals(
        [row.cell.updates for row in ordered], [row.percent("wer") for row in ordered]
    )


def _trainings(rows: Sequence[Row]) -> Iterator[list[int]]:
    """All seeds, and all numbers of updates."""
    yield sorted({seed for row in rows for seed in row.rates})
    yield [row.cell.updates for row in rows]


@click.command(help=__doc__)
@click.argument("rates", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def main(rates: Path) -> None:
    rows, report = load(rates), Report()
    table = begin_table(report, head(*_trainings(rows)))
    for row in rows:
        table.add(*row.cells())
    report.save(rates.with_suffix(".txt"))
    draw(rows, rates.with_suffix(".png"))


if __name__ == "__main__":
    main()
