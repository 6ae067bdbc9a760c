"""Layers: how alike hidden states are, plans, and what models have lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.plan import LayerPlan
from speechprune.reports.page.contents import Contents, Plans
from speechprune.reports.page.markup import (
    Child,
    Markup,
    element,
    joined,
    name_of,
    paragraph,
    shaded,
    table,
)

TITLE = "Layers"

#: As many plans of a file are shown.
_MOST_PLANS = 20


def section(contents: Contents) -> Markup:
    """Matrices, plans, then the models that have lost layers."""
    lost = {model.name: model.lost for model in contents.models if model.lost is not None}
    parts = [_matrix(name, matrix) for name, matrix in contents.matrices.items()]
    parts += [_plans(plans) for plans in contents.plans]
    if lost:
        by_depth: dict[int, list[str]] = {}
        for name, plan in lost.items():
            by_depth.setdefault(plan.layers, []).append(name)
        for depth, names in by_depth.items():
            parts.append(element("h3", f"Models that have lost some of {depth} layers"))
            caption = f"Layers that stay (●) and that are gone (×), of {depth}"
            parts.append(_strips(caption, [(name, lost[name], {}) for name in names], "model"))
    return (
        joined(parts)
        if parts
        else paragraph(
            "There are no similarity matrices and no layer plans, and no model has lost a layer."
        )
    )


def _matrix(name: str, matrix: SimilarityMatrix) -> Markup:
    states = range(len(matrix.values))
    low = min(0.0, float(matrix.values.min()))
    if matrix.floor is not None:
        low = min(matrix.floor, float(matrix.values.min()))
    rows: list[list[Child]] = [
        [str(row), *(shaded(float(v), _two(float(v)), low=low) for v in matrix.values[row])]
        for row in states
    ]
    measure = matrix.measure or "similarity"
    floor = (
        "What independent data would give is not known."
        if matrix.floor is None
        else f"Independent data of this size gives {matrix.floor:.4f}, where the shades begin."
    )
    caption = f"{measure} of hidden states; 0 is the input of the first layer"
    return joined(
        [
            element("h3", name_of(name)),
            table(caption, ["", *map(str, states)], rows, class_="heat matrix"),
            paragraph(floor),
        ]
    )


def _plans(plans: Plans) -> Markup:
    shown = list(zip(plans.plans, plans.facts))[:_MOST_PLANS]
    rows = [(str(n), plan, facts) for n, (plan, facts) in enumerate(shown, start=1)]
    more = len(plans.plans) - len(shown)
    layers = plans.plans[0].layers
    caption = f"Layers that stay (●) and that go (×), of {layers}; the best plan is the first"
    return joined(
        [
            element("h3", "Plans of ", name_of(plans.name)),
            _strips(caption, rows, "plan"),
            paragraph(f"{more:,} further plans are not shown.") if more else "",
        ]
    )


def _strips(
    caption: str, plans: Sequence[tuple[str, LayerPlan, Mapping[str, str]]], what: str
) -> Markup:
    """A row for each plan, with a cell for each layer, and what else is known of it."""
    titles = list(dict.fromkeys(title for _, _, facts in plans for title in facts))
    rows: list[list[Child]] = []
    for name, plan, facts in plans:
        gone = set(plan.dropped)
        cells = [
            element(
                "td", "×" if layer in gone else "●", class_="gone" if layer in gone else "stays"
            )
            for layer in range(plan.layers)
        ]
        rows.append([name_of(name), *cells, *(name_of(facts.get(title, "–")) for title in titles)])
    head = [what, *map(str, range(plans[0][1].layers)), *titles]
    return table(caption, head, rows, class_="strips")


def _two(value: float) -> str:
    """Two decimals, without the 0 before the point."""
    shown = f"{value:.2f}"
    return shown.replace("0.", ".", 1) if abs(value) < 0.995 else shown
