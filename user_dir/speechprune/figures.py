"""Figures: PNG, PDF or SVG, by the ending of the file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from speechprune.errors import UserError
from speechprune.files import check_output, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

INK = "#1f2933"
CELL = 0.62  # inch
SHADES = ("#2c7fb8", "#7fcdbb", "#edf8b1")
#: About the width of a letter of a title, inch.
_TITLE_LETTER = 0.08

#: By ending, what is kept out of a file: with the time in it, no two files would be the same.
_METADATA: Mapping[str, dict[str, None]] = {
    ".png": {},
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
}


def heat_map(
    matrix: np.ndarray,
    labels: Sequence[str],
    path: Union[str, Path],
    title: str = "",
    vmin: float = 0.0,
    vmax: float = 1.0,
) -> None:
    """Draw a pairwise matrix, with its values in the cells.

    Args:
        matrix: (N, N) floats; NaN cells stay empty.
        labels: N names, for rows and columns alike.
        path: the figure, .png, .pdf or .svg; written atomically.
        title: above the map, wrapped to its width.
        vmin, vmax: the values at the ends of the colour scale.

    Raises ValueError if labels and matrix differ in size, and UserError as `save_figure` does.
    """
    count = len(labels)
    if np.shape(matrix) != (count, count):
        raise ValueError(f"{count} labels for a matrix of shape {np.shape(matrix)}")
    side = max(2.4, CELL * count)
    figure, axes = new_figure((side, side))
    image = axes.imshow(matrix, cmap="GnBu", vmin=vmin, vmax=vmax)
    _label(axes, labels)
    write_title(axes, title, side)
    _write_values(axes, np.asarray(matrix, dtype=float), image)
    bar = figure.colorbar(image, cax=axes.inset_axes((1 + 0.12 / side, 0.0, 0.16 / side, 1.0)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0, colors=INK)
    save_figure(figure, path)


def grouped_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    path: Union[str, Path],
    title: str = "",
) -> None:
    """Draw bars side by side within each group, each with its value above it.

    Args:
        groups: G names along the horizontal axis; a line break starts a second line.
        series: name to G values of 0 or more.
        path: the figure, .png, .pdf or .svg; written atomically.

    Raises ValueError if a series has another length, and UserError as `save_figure` does.
    """
    across = 1.2 + 1.6 * len(groups)
    figure, axes = new_figure((across, 3.2))
    width = 0.8 / len(series)
    places = np.arange(len(groups))
    for index, (name, values) in enumerate(series.items()):
        if len(values) != len(groups):
            raise ValueError(f"{len(values)} values of {name!r} for {len(groups)} groups")
        shifted = places + (index - (len(series) - 1) / 2) * width
        bars = axes.bar(
            shifted, values, width * 0.94, label=name, color=SHADES[index % len(SHADES)]
        )
        axes.bar_label(bars, fmt="%.1f", fontsize=8, color=INK, padding=2)
    axes.set_xticks(places, groups, fontsize=9, color=INK)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_yticks([])
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, ncols=len(series))
    write_title(axes, title, across)
    save_figure(figure, path)


def bar_panels(
    names: Sequence[str],
    panels: Mapping[str, Sequence[float]],
    path: Union[str, Path],
    title: str = "",
) -> None:
    """Draw horizontal bars from the top down, panels side by side, each bar with its value.

    Args:
        names: N of them, left of the first panel.
        panels: what is measured to N values of 0 or more.
        path: the figure, .png, .pdf or .svg; written atomically.

    Raises ValueError if a panel has another length, and UserError as `save_figure` does.
    """
    figure, first = new_figure((2.6 * len(panels), 0.5 + 0.36 * len(names)))
    share = 1.0 / len(panels)
    for index, (name, values) in enumerate(panels.items()):
        if len(values) != len(names):
            raise ValueError(f"{len(values)} values of {name!r} for {len(names)} names")
        place = (index * share, 0.0, share * 0.8, 1.0)
        axes = figure.add_axes(place) if index else first
        axes.set_position(place)
        bars = axes.barh(range(len(names)), values, 0.7, color=SHADES[0])
        labels = [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values]
        axes.bar_label(bars, labels, fontsize=8, color=INK, padding=3)
        axes.set_yticks(range(len(names)), [] if index else names, fontsize=9, color=INK)
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_xlabel(name, fontsize=9, color=INK)
    write_title(first, title, 2.6 * len(panels))
    save_figure(figure, path)


def write_title(axes: Axes, title: str, width: float) -> None:
    """Write a title above axes, wrapped to ``width`` inches."""
    wrapped = fill(title, int(width / _TITLE_LETTER))
    axes.set_title(wrapped, fontsize=11, color=INK, pad=10, loc="left")


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure of ``size`` inches filled by its axes, free of pyplot's global state."""
    # fairseq logs at DEBUG, at which matplotlib tells of each font that it looks at.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0.0, 0.0, 1.0, 1.0))


def check_figure_path(path: Union[str, Path]) -> str:
    """The ending of a figure's file, in lower case; raises UserError unless it can be drawn."""
    check_output(path)
    ending = Path(path).suffix.lower()
    if ending not in _METADATA:
        raise UserError(f"{path} cannot be drawn; name a file that ends in .png, .pdf or .svg")
    return ending


def save_figure(figure: Figure, path: Union[str, Path]) -> None:
    """Write a figure in the format of its ending, the same bytes each time.

    Raises UserError for another ending than .png, .pdf or .svg, or if it cannot be written.
    """
    ending = check_figure_path(path)
    from matplotlib import rc_context

    buffer = BytesIO()
    # The ids of an SVG's elements are random otherwise.
    with rc_context({"svg.hashsalt": "speechprune"}):
        figure.savefig(
            buffer,
            format=ending[1:],
            dpi=200,
            # The axes have a fixed size; labels of any length make the picture larger, never them
            # smaller.
            bbox_inches="tight",
            pad_inches=0.15,
            metadata=_METADATA[ending],
        )
    write_atomically(path, buffer.getvalue())


def _label(axes: Axes, labels: Sequence[str]) -> None:
    ticks = range(len(labels))
    longest = max((len(label) for label in labels), default=0)
    axes.set_yticks(ticks, labels, fontsize=9, color=INK)
    axes.set_xticks(ticks, labels, fontsize=9, color=INK)
    if longest > 4:
        for text in axes.get_xticklabels():
            text.set(rotation=40, ha="right", rotation_mode="anchor")
    # White lines between the cells.
    axes.set_xticks(np.arange(0.5, len(labels) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(labels) - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _write_values(axes: Axes, matrix: np.ndarray, image: AxesImage) -> None:
    norm: Any = image.norm
    digits = 2 if norm.vmax - norm.vmin >= 0.2 else 3
    for (row, column), value in np.ndenumerate(matrix):
        if np.isnan(value):
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        color = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK
        axes.text(
            column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=8, color=color
        )
