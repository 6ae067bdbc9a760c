"""Tables and the figure of `benchmarks.dropping`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from speechprune.curves import Curve, Panel, line_panels
from speechprune.files import write_atomically
from speechprune.intervals import Interval
from speechprune.layers.plan import LayerPlan
from speechprune.tables import table


@dataclass(frozen=True)
class Choice:
    """What one way to choose layers found.

    Attributes:
        plans: one, or those whose median counts.
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
    training: str,
) -> None:
    """Write a table for each share of the layers, and the figure.

    Args:
        head: lines before the tables.
        choices: by share.
        before, after: test error rates by plan, without finetuning and with it.
        folder: where to.
        training: seed and updates of finetuning, in words.
    """
    lines = list(head)
    for share, found in choices.items():
        rows = [["way", "dropped", "WER %", "CER %", "finetuned WER %", "CER %", "chosen in s"]]
        for choice in found:
            cells = [
                _interval(choice, rates, metric).in_words()
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
    line_panels(panels, folder / "dropping_digits.png", _title(choices, training))


def _title(choices: Mapping[float, Sequence[Choice]], training: str) -> str:
    most = max(len(choice.plans) for found in choices.values() for choice in found)
    several = f"; of up to {most} plans median, least and most" * (most > 1)
    return f"Ways to choose layers to drop, digits; finetuned with {training}{several}"


def _curves(
    ways: Sequence[str],
    choices: Mapping[float, Sequence[Choice]],
    rates: Mapping[str, Mapping[str, float]],
) -> dict[str, Curve]:
    curves = {}
    for way in ways:
        chosen = [next(c for c in each if way in c.way) for each in choices.values()]
        found = [_interval(choice, rates, "cer") for choice in chosen]
        curves[way] = Curve.of_intervals([100 * share for share in choices], found)
    return curves


def _interval(choice: Choice, rates: Mapping[str, Mapping[str, float]], metric: str) -> Interval:
    """An error rate over the plans of a choice, in percent."""
    return Interval.of([100 * rates[plan_key(plan)][metric] for plan in choice.plans])
