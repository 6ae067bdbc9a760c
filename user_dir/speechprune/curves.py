"""Figures of curves: medians with bars from the least to the most, in panels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from speechprune.figures import INK, new_figure, save_figure, write_title
from speechprune.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer

_DASHED: Mapping[str, Any] = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 1.2}
LINES = ("#2c7fb8", "#d95f0e", "#31a354", "#756bb1", "#c51b8a", "#8c510a", "#d9a400", "#636363")
MARKERS = "osD^vPX*"
PANEL = (4.2, 3.0)  # inch
#: How far bars of several curves stand from each other, in points; of many curves, less.
_BETWEEN_BARS = 4.0
#: Places at the most that an x axis marks one by one.
_FEW = 6


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
