"""Slim models: the heads and channels that each layer has kept."""

from __future__ import annotations

from speechprune.reports.page.contents import Contents, LayerUnits, Model
from speechprune.reports.page.markup import (
    Child,
    Markup,
    element,
    joined,
    name_of,
    paragraph,
    table,
)

TITLE = "Slim models"
_BAR = 80


def section(contents: Contents) -> Markup:
    """A table for each model that lost heads or channels."""
    slim = [model for model in contents.models if model.units is not None]
    if not slim:
        return paragraph("No model here has lost heads or channels.")
    return joined(map(_model, slim))


def _model(model: Model) -> Markup:
    units = model.units or ()
    rows: list[list[Child]] = [[str(n), *_cells(each)] for n, each in enumerate(units)]
    whole = LayerUnits(
        sum(each.heads for each in units),
        sum(each.heads_before for each in units),
        sum(each.channels for each in units),
        sum(each.channels_before for each in units),
    )
    rows.append(["all", *_cells(whole)])
    head = ["layer", "heads kept", "", "channels kept", ""]
    caption = f"What each layer keeps, {model.name}"
    return joined([element("h3", name_of(model.name)), table(caption, head, rows, class_="bars")])


def _cells(units: LayerUnits) -> list[Child]:
    return [
        *_kept(units.heads, units.heads_before),
        *_kept(units.channels, units.channels_before),
    ]


def _kept(kept: int, before: int) -> list[Child]:
    """The count in words, and as a bar, which stands beside it and needs no words of its own."""
    if not before:
        return ["all", ""]
    bar = element(
        "svg",
        element("rect", x=0, y=0, width=_BAR, height=10, class_="track"),
        element("rect", x=0, y=0, width=_BAR * kept / before, height=10, class_="bar"),
        viewBox=f"0 0 {_BAR} 10",
        aria_hidden="true",
    )
    return [f"{kept:,} of {before:,}", element("td", bar, class_="text")]
