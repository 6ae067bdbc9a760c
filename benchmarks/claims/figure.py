"""Draw panels of the map: errors against labelled minutes, for each number of updates.

    python -m benchmarks.claims.figure benchmarks/results/claims/nano-*.json --out claims.png

Rows are what was trained on, known speakers, and one whom training never heard; columns are numbers
of updates.
Medians of seeds, of last checkpoints, with intervals from the least to the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import click

from benchmarks.claims.measured import KNOWN, LAST, TRAINED, UNKNOWN, PanelResult
from speechprune.figures import INK, LINES, MARKERS, PANEL, legend_beside, new_figure, save_figure
from speechprune.intervals import Interval, updates_in_words

_ROWS = {
    TRAINED: "what was trained on",
    KNOWN: "known speakers",
    UNKNOWN: "unknown speaker",
}
#: How far the marks of two methods that are next to each other stand apart, as a factor.
_APART = 1.04
#: How much of its place each pair of axes takes.
_SHARE = 0.8
#: About the width of a letter of the title, inch, and the height that it stands at.
_LETTER, _TITLE_AT = 0.08, 1.01


def draw(panels: Sequence[PanelResult], path: Path, kind: str = "wer") -> None:
    """Draw all panels of one model.

    Args:
        kind: of errors: "wer" or "cer".
        path: the figure, .png, .pdf or .svg; written atomically.

    Raises:
        ValueError: the panels are of several models or of other seeds, or two are of one place.
    """
    if len({(panel.model, panel.seeds_in_words) for panel in panels}) != 1:
        raise ValueError("a figure shows the panels of one model with the same seeds")
    if len({(panel.minutes, panel.updates) for panel in panels}) != len(panels):
        raise ValueError("two panels have the same minutes and updates")
    updates = sorted({panel.updates for panel in panels})
    names = list(dict.fromkeys(method.name for panel in panels for method in panel.methods))
    size = (PANEL[0] * len(updates), PANEL[1] * len(_ROWS))
    figure, axes = new_figure(size)
    figure.delaxes(axes)
    for row, split in enumerate(_ROWS):
        for column, number in enumerate(updates):
            left, bottom = column / len(updates), 1 - (row + 1) / len(_ROWS)
            place = (left, bottom, _SHARE / len(updates), _SHARE / len(_ROWS))
            axes = figure.add_axes(place)
            _draw_place(axes, [p for p in panels if p.updates == number], names, split, kind)
            axes.set_ylabel(f"{kind.upper()} %, {_ROWS[split]}", fontsize=9, color=INK)
            if row == 0:
                axes.set_title(updates_in_words([number]), fontsize=9, color=INK, loc="left")
            if row == 0 and column == len(updates) - 1:
                legend_beside(axes, _by_name(axes, names))
    title = fill(_title(panels), int(size[0] / _LETTER))
    figure.text(0.0, _TITLE_AT, title, fontsize=11, color=INK)
    save_figure(figure, path)


def _title(panels: Sequence[PanelResult]) -> str:
    (seeds,) = {panel.seeds_in_words for panel in panels}
    return f"The {panels[0].model} model on strings of digits: median, least and most of {seeds}"


def _by_name(axes: Any, names: Sequence[str]) -> dict[str, Any]:
    """What there is of each method in a figure, for its legend."""
    return {name: _mark(axes, [], [], number) for number, name in enumerate(names)}


def _draw_place(
    axes: Any, panels: Sequence[PanelResult], names: Sequence[str], split: str, kind: str
) -> None:
    """One method beside the other, at each number of minutes."""
    for number, name in enumerate(names):
        found = {
            panel.minutes: method.of(split, LAST, kind)
            for panel in sorted(panels, key=lambda panel: panel.minutes)
            for method in panel.methods
            if method.name == name
        }
        shift = _APART ** (number - (len(names) - 1) / 2)
        _mark(axes, [minutes * shift for minutes in found], list(found.values()), number)
    minutes = sorted({panel.minutes for panel in panels})
    axes.set_xscale("log")
    axes.set_xticks(minutes, [f"{each:g}" for each in minutes])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("labelled minutes", fontsize=9, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)


def style_of(number: int) -> dict[str, Any]:
    """Marks and lines that tell a method from the others: after one round of colours they are
    hollow, on dotted lines."""
    again = number >= len(LINES)
    color = LINES[number % len(LINES)]
    return {
        "color": color,
        "marker": MARKERS[number % len(MARKERS)],
        "markerfacecolor": "white" if again else color,
        "linestyle": ":" if again else "-",
    }


def _mark(axes: Any, x: Sequence[float], y: Sequence[Interval], number: int) -> Any:
    """Marks with their intervals, in the style of a method's number."""
    return axes.errorbar(
        x,
        [each.median for each in y],
        yerr=[
            [each.median - each.least for each in y],
            [each.most - each.median for each in y],
        ],
        **style_of(number),
        markersize=5,
        linewidth=1.2,
        capsize=2,
        clip_on=False,
    )


@click.command(help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(("wer", "cer")), default="wer", show_default=True)
def main(files: tuple[Path, ...], out: Path, kind: str) -> None:
    draw([PanelResult.load(file) for file in files], out, kind)


if __name__ == "__main__":
    main()
