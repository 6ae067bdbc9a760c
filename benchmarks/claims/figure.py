"""Draw panels of the map: errors against labelled minutes, for each number of updates.

    python -m benchmarks.claims.figure benchmarks/results/claims/nano-*.json --out claims.png

Rows are what was trained on, known speakers, and one whom training never heard; columns are numbers
of updates. Word errors of last checkpoints: medians of seeds, with intervals from the least to the
most.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.claims.measured import KNOWN, LAST, TRAINED, UNKNOWN, PanelResult
from speechprune.figures import (
    PANEL,
    Curve,
    Panel,
    draw_panel,
    legend_beside,
    new_figure,
    save_figure,
    write_title,
)
from speechprune.intervals import updates_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROWS = {
    TRAINED: "what was trained on",
    KNOWN: "known speakers",
    UNKNOWN: "unknown speaker",
}
#: How far the marks of two methods that are next to each other stand apart, as a factor.
_APART = 1.04
#: How much of its place each pair of axes takes.
_SHARE = 0.8


def draw(panels: Sequence[PanelResult], path: Path) -> None:
    """Draw all panels of one model.

    Args:
        path: the figure, .png, .pdf or .svg; written atomically.

    Raises:
        ValueError: the panels are of several models or of other seeds, or two are of one place.
    """
    titles = {(panel.digest, f"{panel.model}: {panel.seeds_in_words}") for panel in panels}
    if len(titles) != 1:
        raise ValueError("a figure shows the panels of one model with the same seeds")
    if len({(panel.minutes, panel.updates) for panel in panels}) != len(panels):
        raise ValueError("two panels have the same minutes and updates")
    ((_, title),) = titles
    updates = sorted({panel.updates for panel in panels})
    fullest = sorted(panels, key=lambda panel: len(panel.methods), reverse=True)  # names in order
    names = list(dict.fromkeys(method.name for panel in fullest for method in panel.methods))
    width, height = PANEL[0] * len(updates), PANEL[1] * len(_ROWS)
    figure, axes = new_figure((width, height))
    for row, split in enumerate(_ROWS):
        for column, number in enumerate(updates):
            place = (column / len(updates), 1 - (row + 1) / len(_ROWS))
            sides = (_SHARE / len(updates), _SHARE / len(_ROWS))
            axes = figure.add_axes((*place, *sides)) if row or column else axes
            axes.set_position((*place, *sides))
            _draw_place(axes, [p for p in panels if p.updates == number], names, split)
            if (row, column) == (0, 0):
                write_title(axes, f"Strings of digits; median, least and most; {title}", width)
            if (row, column) == (0, len(updates) - 1):
                legend_beside(axes, dict(zip(*reversed(axes.get_legend_handles_labels()))))
    save_figure(figure, path)


def _draw_place(
    axes: Axes, panels: Sequence[PanelResult], names: Sequence[str], split: str
) -> None:
    """One method beside the other, at each number of minutes."""
    curves = {name: _curve(panels, name, names, split) for name in names}
    of_updates = updates_in_words([panels[0].updates])
    labels = f"labelled minutes; {of_updates}", f"WER %, {_ROWS[split]}"
    draw_panel(axes, Panel(*labels, curves), names)
    minutes = sorted({panel.minutes for panel in panels})
    axes.set_xscale("log")
    axes.set_xticks(minutes, [f"{each:g}" for each in minutes])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=-2)  # marks at 0 are seen whole


def _curve(panels: Sequence[PanelResult], name: str, names: Sequence[str], split: str) -> Curve:
    """The errors of a method where it was measured, a little beside those of others."""
    shift = _APART ** (names.index(name) - (len(names) - 1) / 2)
    found = {
        panel.minutes: method.of(split, LAST, "wer")
        for panel in sorted(panels, key=lambda panel: panel.minutes)
        for method in panel.methods
        if method.name == name
    }
    return Curve.of_intervals([minutes * shift for minutes in found], list(found.values()))


@click.command(help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File of the figure.")
def main(files: tuple[Path, ...], out: Path) -> None:
    draw([PanelResult.load(file) for file in files], out)


if __name__ == "__main__":
    main()
