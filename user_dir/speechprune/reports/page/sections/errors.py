"""Error rates against sparsity, size and speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from speechprune.reports.comparison import Comparison
from speechprune.reports.page.charts import Chart, Series, charts, legend
from speechprune.reports.page.contents import Contents, Measurement
from speechprune.reports.page.markup import (
    Markup,
    element,
    joined,
    name_of,
    paragraph,
    remarks,
    table,
)
from speechprune.reports.page.scales import short

TITLE = "Error against size and speed"


@dataclass(frozen=True)
class _Cost:
    """What an error rate is drawn against.

    Attributes:
        name: in words.
        axis: with its unit.
        of: its value in a measurement; None if it is not known.
        shown: the value as text, where it is known.
        measurer: how it is measured.
    """

    name: str
    axis: str
    of: Callable[[Measurement], float | None]
    shown: Callable[[Measurement], str]
    measurer: str


_COSTS = (
    _Cost(
        "number of parameters kept",
        "parameters kept",
        lambda found: found.parameters,
        lambda found: f"{found.parameters:,}",
        "an evaluation of their runs counts them",
    ),
    _Cost(
        "file size",
        "file size (MB)",
        lambda found: None if found.size is None else found.size / 1e6,
        lambda found: f"{(found.size or 0) / 1e6:.1f}",
        "give their checkpoints by themselves, with --data and --subset",
    ),
    _Cost(
        "number of multiply-adds",
        "multiply-adds for 10 s",
        lambda found: found.multiply_adds,
        lambda found: f"{short(found.multiply_adds or 0)}",
        "reports of speechprune slim auto tell them",
    ),
    _Cost(
        "speed",
        "s of audio per s",
        lambda found: found.speed,
        lambda found: f"{found.speed:.1f} ({found.device})",
        "give what speechprune evaluate --json prints of them",
    ),
)


def section(contents: Contents) -> Markup:
    """Comparisons of runs, then all that was measured, on each data apart."""
    groups: dict[tuple[str, tuple[str, ...]], list[Measurement]] = {}
    for found in contents.measurements:
        groups.setdefault((found.data, tuple(found.errors)), []).append(found)
    if not groups:
        return paragraph("Nothing was evaluated.")
    parts = [_comparison(each) for each in contents.comparisons]
    if len({data for data, _ in groups}) > 1:
        parts.append(
            paragraph(
                "Not everything was measured on the same data: error rates under different "
                "headings below cannot be compared.",
                class_="warning",
            )
        )
    parts += [_measured(group) for group in groups.values()]
    return joined(parts)


def _comparison(compared: Comparison) -> Markup:
    errors = compared.errors
    head = ["method", "seeds", "sparsity %", *(f"{name} %" for name in errors.values())]
    rows = [
        [
            name_of(row.label),
            str(len(row.seeds)),
            f"{row.sparsity:.1f}",
            *(row.percent(rate).in_words(2) for rate in errors),
            f"{row.kept:,}",
        ]
        for row in compared.rows()
    ]
    caption = f"Error rates of the {compared.which} checkpoints: {compared.trainings()}"
    warnings = compared.warnings()
    return joined(
        [
            element("h3", "Methods on ", name_of(compared.subset)),
            table(caption, [*head, "parameters kept"], rows),
            _against_sparsity(compared, caption),
            paragraph("What makes these runs hard to compare:") if warnings else "",
            remarks(warnings),
        ]
    )


def _against_sparsity(compared: Comparison, caption: str) -> Markup:
    rows = compared.rows()
    names = list(dict.fromkeys(row.label for row in rows))
    if len({row.sparsity for row in rows}) < 2:
        return Markup()
    drawn = []
    for rate, name in compared.errors.items():
        series = []
        for look, label in enumerate(names):
            points = [row for row in rows if row.label == label]
            found = [row.percent(rate) for row in points]
            series.append(
                Series(
                    label,
                    look,
                    [row.sparsity for row in points],
                    [each.median for each in found],
                    [row.title for row in points],
                    intervals=found,
                )
            )
        title = f"{name} by sparsity"
        drawn.append(Chart(title, "sparsity (%)", f"{name} (%)", series, from_zero=True))
    return joined([legend(names), charts(drawn), paragraph(caption)])


def _measured(group: Sequence[Measurement]) -> Markup:
    """A table and charts of what was measured on the same data."""
    rates = list(group[0].errors)
    places = list(dict.fromkeys(found.where for found in group))
    known = [cost for cost in _COSTS if any(cost.of(found) is not None for found in group)]
    rows = [
        [
            name_of(found.name),
            *(f"{100 * found.errors[rate]:.2f}" for rate in rates),
            *("–" if cost.of(found) is None else cost.shown(found) for cost in known),
        ]
        for found in group
    ]
    head = ["model", *(f"{rate} %" for rate in rates), *(cost.axis for cost in known)]
    return joined(
        [
            element("h3", "Measured on ", name_of("; ".join(places))),
            table("Every model that was measured on these data", head, rows),
            legend([": ".join(filter(None, (each.name, each.training))) for each in group]),
            charts([_against(cost, group, rates[0]) for cost in known]),
            remarks([line for cost in _COSTS for line in _unknown(cost, group)]),
        ]
    )


def _against(cost: _Cost, group: Sequence[Measurement], rate: str) -> Chart:
    series = []
    for look, found in enumerate(group):
        value = cost.of(found)
        if value is not None:
            percent = 100 * found.errors[rate]
            series.append(Series(found.name, look, [float(value)], [percent], [found.name]))
    return Chart(f"{rate} by {cost.name}", cost.axis, f"{rate} (%)", series, from_zero=True)


def _unknown(cost: _Cost, group: Sequence[Measurement]) -> list[str]:
    """A line if a cost is not known of all models, with who measures it."""
    count = sum(cost.of(found) is None for found in group)
    if not count:
        return []
    which = "any" if count == len(group) else f"{count} of {len(group)}"
    return [f"The {cost.name} of {which} of these models is not known; {cost.measurer}."]
