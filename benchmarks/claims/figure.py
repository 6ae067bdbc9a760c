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

from benchmarks.claims.measured import LAST
from benchmarks.claims.whole import SPLITS, WholeMap, whole_map_command
from speechprune.curves import PANEL, Curve, Panel, draw_panel, legend_beside
from speechprune.figures import new_figure, save_figure, write_title
from speechprune.intervals import updates_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: How much of its place each pair of axes takes.
_SHARE = 0.8


def draw(whole: WholeMap, path: Path) -> None:
    """Draw all panels.

    Args:
        path: the figure, .png, .pdf or .svg; written atomically.
    """
    updates = sorted({panel.updates for panel in whole.panels})
    width, height = PANEL[0] * len(updates), PANEL[1] * len(SPLITS)
    figure, whole_area = new_figure((width, height))
    whole_area.remove()
    for row, split in enumerate(SPLITS):
        places = [_place(row, column, len(updates)) for column in range(len(updates))]
        drawn = [figure.add_axes(place) for place in places]
        for axes, number in zip(drawn, updates):
            _draw_place(axes, whole, number, split)
        _share_scales(drawn)
        if row == 0:
            title = f"Strings of digits; median, least and most; {whole.title}"
            write_title(drawn[0], title, width)
            legend_beside(drawn[-1], dict(zip(*reversed(drawn[-1].get_legend_handles_labels()))))
    save_figure(figure, path)


def _share_scales(row: Sequence[Axes]) -> None:
    """Let errors after different numbers of updates be compared along a row."""
    left, right = zip(*(axes.get_xlim() for axes in row))
    top = max(axes.get_ylim()[1] for axes in row)
    for axes in row:
        axes.set_xlim(min(left), max(right))
        axes.set_ylim(-2, top)  # marks at 0 are seen whole


def _place(row: int, column: int, columns: int) -> tuple[float, float, float, float]:
    """Left and lower edge, width and height of a pair of axes, as shares of the figure's."""
    rows = len(SPLITS)
    return column / columns, 1 - (row + 1) / rows, _SHARE / columns, _SHARE / rows


def _draw_place(axes: Axes, whole: WholeMap, updates: int, split: str) -> None:
    """The errors of all methods at each number of minutes."""
    curves = {name: _curve(whole, name, updates, split) for name in whole.names}
    labels = f"labelled minutes; {updates_in_words([updates])}", f"WER %, {SPLITS[split]}"
    draw_panel(axes, Panel(*labels, curves), whole.names)
    minutes = [panel.minutes for panel in whole.panels if panel.updates == updates]
    axes.set_xscale("log")
    axes.set_xticks(minutes, [f"{each:g}" for each in minutes])
    axes.set_xticks([], minor=True)


def _curve(whole: WholeMap, name: str, updates: int, split: str) -> Curve:
    """The errors of a method where it was measured."""
    found = [
        (panel.minutes, method.of(split, LAST, "wer"))
        for panel, method in whole.measured(name)
        if panel.updates == updates
    ]
    return Curve.of_intervals([at for at, _ in found], [interval for _, interval in found])


@whole_map_command(__doc__)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File of the figure.")
def main(whole: WholeMap, out: Path) -> None:
    draw(whole, out)


if __name__ == "__main__":
    main()
