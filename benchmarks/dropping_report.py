"""Tables and the figure of `benchmarks.dropping`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import click

from speechprune.figures import Curve, Panel, line_panels
from speechprune.files import write_atomically
from speechprune.layers.plan import LayerPlan
from speechprune.tables import table


@dataclass(frozen=True)
class Choice:
    """What one way to choose layers found.

    Attributes:
        plans: one, or those whose mean counts.
        seconds: that choosing took, similarity or verification included.
    """

    way: str
    plans: tuple[LayerPlan, ...]
    seconds: float


def plan_key(plan: LayerPlan) -> str:
    """What a plan is called in files."""
    return "-".join(map(str, plan.dropped))


def write_report(
    head: Sequence[str],
    choices: Mapping[float, Sequence[Choice]],
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    folder: Path,
) -> None:
    """Write a table for each share of the layers, and the figure.

    Args:
        head: lines before the tables.
        choices: by share.
        before, after: test error rates by plan, without finetuning and with it.
        folder: where to.
    """
    lines = list(head)
    for share, found in choices.items():
        rows = [["way", "dropped", "WER %", "CER %", "finetuned WER %", "CER %", "chosen in s"]]
        for choice in found:
            cells = [
                _spread([100 * rates[plan_key(plan)][metric] for plan in choice.plans])
                for rates in (before, after)
                for metric in ("wer", "cer")
            ]
            dropped = " ".join(map(str, choice.plans[0].dropped)) if len(choice.plans) == 1 else ""
            rows.append([choice.way, dropped, *cells, f"{choice.seconds:.1f}"])
        lines += ["", f"{share:.0%} of the layers dropped", table(rows, left=2)]
    write_atomically(folder / "dropping_digits.txt", ("\n".join(lines) + "\n").encode())
    click.echo("\n".join(lines))
    names = "random", "exact, svcca", "exact, svcca-means", "exact, dc-unbiased", "verified", "GLP"
    measured = [choice.way for found in choices.values() for choice in found]
    ways = [name for name in names if any(name in way for way in measured)]
    panels = [
        Panel("layers dropped, %", f"CER %, {title}", _curves(ways, choices, rates))
        for title, rates in (("without finetuning", before), ("finetuned", after))
    ]
    line_panels(panels, folder / "dropping_digits.png", "Ways to choose layers to drop")


def _curves(
    ways: Sequence[str],
    choices: Mapping[float, Sequence[Choice]],
    rates: Mapping[str, Mapping[str, float]],
) -> dict[str, Curve]:
    curves = {}
    for way in ways:
        chosen = [next(c for c in found if way in c.way) for found in choices.values()]
        values = [[100 * rates[plan_key(plan)]["cer"] for plan in c.plans] for c in chosen]
        spread = [stdev(v) if len(v) > 1 else 0.0 for v in values]
        shares = [100 * share for share in choices]
        curves[way] = Curve(shares, [mean(v) for v in values], spread)
    return curves


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ±{stdev(values):.1f}"
