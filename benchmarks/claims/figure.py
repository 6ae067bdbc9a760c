"""Draw panels of the map: errors against labelled minutes, for each number of updates.

    python -m benchmarks.claims.figure benchmarks/results/claims/nano-*.json --out claims.png

Rows are what was trained on, known speakers, and one whom training never heard; columns are numbers
of updates. Word errors of last checkpoints: medians of seeds, with intervals from the least to the
most.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.claims.measured import LAST, PanelResult
from benchmarks.claims.whole import SPLITS, WholeMap
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

#: How far the marks of two methods that are next to each other stand apart, as a factor.
_APART = 1.04
#: How much of its place each pair of axes takes.
_SHARE = 0.8


def draw(whole: WholeMap, path: Path) -> None:
    """Draw all panels.

    Args:
        path: the figure, .png, .pdf or .svg; written atomically.
    """
    updates = sorted({panel.updates for panel in whole.panels})
    width, height = PANEL[0] * len(updates), PANEL[1] * len(SPLITS)
    figure, axes = new_figure((width, height))
    for row, split in enumerate(SPLITS):
        for column, number in enumerate(updates):
            place = (column / len(updates), 1 - (row + 1) / len(SPLITS))
            sides = (_SHARE / len(updates), _SHARE / len(SPLITS))
            axes = figure.add_axes((*place, *sides)) if row or column else axes
            axes.set_position((*place, *sides))
            _draw_place(axes, whole, number, split)
            if (row, column) == (0, 0):
                write_title(
                    axes, f"Strings of digits; median, least and most; {whole.title}", width
                )
            if (row, column) == (0, len(updates) - 1):
                legend_beside(axes, dict(zip(*reversed(axes.get_legend_handles_labels()))))
    save_figure(figure, path)


def _draw_place(axes: Axes, whole: WholeMap, updates: int, split: str) -> None:
    """One method beside the other, at each number of minutes."""
    curves = {name: _curve(whole, name, updates, split) for name in whole.names}
    labels = f"labelled minutes; {updates_in_words([updates])}", f"WER %, {SPLITS[split]}"
    draw_panel(axes, Panel(*labels, curves), whole.names)
    minutes = [panel.minutes for panel in whole.panels if panel.updates == updates]
    axes.set_xscale("log")
    axes.set_xticks(minutes, [f"{each:g}" for each in minutes])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=-2)  # marks at 0 are seen whole


def _curve(whole: WholeMap, name: str, updates: int, split: str) -> Curve:
    """The errors of a method where it was measured, a little beside those of others."""
    shift = _APART ** (whole.names.index(name) - (len(whole.names) - 1) / 2)
    found = [
        (panel.minutes * shift, method.of(split, LAST, "wer"))
        for panel, method in whole.measured(name)
        if panel.updates == updates
    ]
    return Curve.of_intervals([at for at, _ in found], [interval for _, interval in found])


@click.command(help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File of the figure.")
def main(files: tuple[Path, ...], out: Path) -> None:
    draw(WholeMap.of(map(PanelResult.load, files)), out)


if __name__ == "__main__":
    main()
