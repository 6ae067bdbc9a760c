"""Figures: PNG, PDF or SVG, by the ending of the file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from speechprune.errors import UserError
from speechprune.files import check_output, write_atomically
from speechprune.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

INK = "#1f2933"
CELL = 0.62  # inch
SHADES = ("#2c7fb8", "#7fcdbb", "#edf8b1")
_DASHED: Mapping[str, Any] = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 1.2}
LINES = ("#2c7fb8", "#d95f0e", "#31a354", "#756bb1", "#c51b8a", "#8c510a", "#d9a400", "#636363")
MARKERS = "osD^vPX*"
PANEL = (4.2, 3.0)  # inch
#: How far bars of several curves stand from each other, in points; of many curves, less.
_BETWEEN_BARS = 4.0
#: Places at the most that an x axis marks one by one.
_FEW = 6
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


@dataclass(frozen=True)
class Curve:
    """A value at each of some places.

    Attributes:
        x, y: as many floats each.
        intervals: of which each y is the median, as many; None if nothing was repeated.
        dashed: for what is not a measurement.
        faint: one of many, without a name of its own in the legend.
    """

    x: Sequence[float]
    y: Sequence[float]
    intervals: Union[Sequence[Interval], None] = None
    dashed: bool = False
    faint: bool = False

    @classmethod
    def of_intervals(cls, x: Sequence[float], intervals: Sequence[Interval]) -> Curve:
        """Medians, each with a bar from the least to the most."""
        return cls(x, [each.median for each in intervals], intervals)

    @property
    def has_colour(self) -> bool:
        return not (self.dashed or self.faint)


@dataclass(frozen=True)
class Panel:
    """Curves by name in one pair of axes, and levels to hold them against.

    Attributes:
        logarithmic: how y is scaled: for values over 0 that span more than one order of magnitude.
    """

    x_label: str
    y_label: str
    curves: Mapping[str, Curve]
    references: Mapping[str, Interval] = field(default_factory=dict)
    logarithmic: bool = False


def line_panels(panels: Sequence[Panel], path: Union[str, Path], title: str = "") -> None:
    """Draw curves with bars from the least to the most, panels side by side.

    References are dashed horizontal lines in a band from the least to the most. A name has the same
    colour in all panels. Curves with bars are drawn a little beside each other: bars at one place
    would hide each other.

    Args:
        panels: one or more.
        path: the figure, .png, .pdf or .svg; written atomically.
        title: above the first panel, wrapped to the width of all.

    Raises ValueError if x and y of a curve differ in length, and UserError as `save_figure` does.
    """
    count = len(panels)
    figure, first = new_figure((PANEL[0] * count, PANEL[1]))
    share = 1.0 / count
    names = list(dict.fromkeys(n for p in panels for n, c in p.curves.items() if c.has_colour))
    known: dict[str, Any] = {}
    for index, panel in enumerate(panels):
        place = (index * share, 0.0, share * (0.82 if count > 1 else 1.0), 1.0)
        axes = figure.add_axes(place) if index else first
        axes.set_position(place)
        draw_panel(axes, panel, names)
        known.update(zip(*reversed(axes.get_legend_handles_labels())))
    # The first axes are at the left edge of the figure, and so is the title.
    write_title(first, title, PANEL[0] * count)
    legend_beside(axes, known)
    save_figure(figure, path)


def write_title(axes: Axes, title: str, width: float) -> None:
    """Write a title above axes, wrapped to ``width`` inches."""
    wrapped = fill(title, int(width / _TITLE_LETTER))
    axes.set_title(wrapped, fontsize=11, color=INK, pad=10, loc="left")


def legend_beside(axes: Axes, known: Mapping[str, Any]) -> None:
    """Put a legend to the right of ``axes``: by name, what matplotlib drew."""
    axes.legend(
        known.values(),
        known.keys(),
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )


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


def draw_panel(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    """Draw curves and references into axes; ``names`` are those with a colour, in its order."""
    places = {place for curve in panel.curves.values() for place in curve.x}
    with_bars: list[ErrorbarContainer] = []
    for name, curve in panel.curves.items():
        if len(curve.x) != len(curve.y):
            raise ValueError(f"{len(curve.y)} values of {name!r} at {len(curve.x)} places")
        style: dict[str, Any] = {"label": name, "linewidth": 1.6}
        if curve.dashed and len(places) == 1:
            # A line through a single point would not be seen.
            axes.axhline(curve.y[0], **_DASHED, label=name)
            continue
        if curve.dashed:
            style.update(_DASHED)
        elif curve.faint:
            style.update(color="#b8c2cc", marker=".", linewidth=0.8, label=None)
        else:
            style.update(style_of(names.index(name)))
        drawn = axes.errorbar(curve.x, curve.y, yerr=_bars(curve), capsize=3, markersize=5, **style)
        if drawn.has_yerr:
            with_bars.append(drawn)
    for name, level in panel.references.items():
        axes.axhline(level.median, **_DASHED, label=name)
        axes.axhspan(level.least, level.most, color=INK, alpha=0.12, linewidth=0)
    _stand_beside(axes, with_bars)
    _mark_few(axes, sorted(places))
    if panel.logarithmic:
        _scale_logarithmically(axes)
    axes.set_xlabel(panel.x_label, fontsize=9, color=INK)
    axes.set_ylabel(panel.y_label, fontsize=9, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _mark_few(axes: Axes, places: Sequence[float]) -> None:
    """Mark the places themselves on the x axis if they are few and far between.

    Curves are drawn beside each other there, so that no regular mark says which place is meant;
    and around a single place, the axis would go on in fractions.
    """
    apart = [after - before for before, after in zip(places, places[1:])]
    if 0 < len(places) <= _FEW and all(each >= sum(apart) / _FEW / 2 for each in apart):
        axes.set_xticks(list(places), [f"{place:.4g}" for place in places])


def style_of(number: int) -> dict[str, Any]:
    """How the curve of a number is drawn: after one round of colours, hollow and dotted."""
    color, again = LINES[number % len(LINES)], number >= len(LINES)
    return {
        "color": color,
        "marker": MARKERS[number % len(MARKERS)],
        "markerfacecolor": "white" if again else color,
        "linestyle": ":" if again else "-",
    }


def _scale_logarithmically(axes: Axes) -> None:
    """Scale y, and mark 1, 2 and 5 of each order of magnitude in plain numbers."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log", subs=())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")


def _stand_beside(axes: Axes, curves: Sequence[ErrorbarContainer]) -> None:
    """Draw curves with bars side by side at each place, and leave room for that at the edges."""
    from matplotlib.transforms import ScaledTranslation

    if not curves:
        return
    width = 72 * axes.get_window_extent().width / axes.figure.dpi
    between = min(_BETWEEN_BARS, width / 4 / len(curves))
    middle = (len(curves) - 1) / 2
    for number, curve in enumerate(curves):
        points = (number - middle) * between
        step = ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)
        for artist in curve.get_children():
            artist.set_transform(axes.transData + step)
    room = 0.045 + middle * between / width
    # A share of the axes' width; matplotlib's margins are shares of the range of the data.
    axes.margins(x=room / (1 - 2 * room))


def _bars(curve: Curve) -> Union[list[list[float]], None]:
    """How far down and up the bars of a curve reach from its values; None if it has none."""
    if curve.intervals is None or all(each.count == 1 for each in curve.intervals):
        return None
    down = [each.median - each.least for each in curve.intervals]
    return [down, [each.most - each.median for each in curve.intervals]]
