"""Figures of languages: named points, and the tree that masks make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray

from speechprune.curves import LINES
from speechprune.figures import INK, new_figure, save_figure, write_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Places = NDArray[np.float64]

SIZE = (6.4, 4.6)  # inch
_FAINT = "#9aa5b1"
_POINTS_PER_INCH = 72.0
_NAME_SIZE = 7.0  # points
#: Of a letter at that size, its width and the height of a line, inch.
_LETTER = 0.52 * _NAME_SIZE / _POINTS_PER_INCH
_LINE = 1.0 * _NAME_SIZE / _POINTS_PER_INCH
#: How far the middle of a name may be from the edge of its point, inch; nearer is better.
_DISTANCES = (0.045, 0.08, 0.13, 0.2, 0.3, 0.42)
_DIRECTIONS = 16
#: Beyond this distance a line leads from a name to its point, inch.
_NEAR = 0.1
#: The side of a point, inch, and how often each name is placed anew.
_DOT, _ROUNDS = 0.06, 3
#: The height of a strip of axes for levels that are far from all points, and the gap to it.
_STRIP, _GAP = 0.07, 0.035


@dataclass(frozen=True)
class NamedPoint:
    """A point with a name beside it."""

    name: str
    x: float
    y: float


def draw_points(
    points: Sequence[NamedPoint],
    path: Union[str, Path],
    *,
    title: str,
    labels: tuple[str, str],
    levels: Mapping[str, Sequence[float]],
) -> None:
    """Draw points with their names, and levels to hold them against.

    A level is a band from its least value to its largest. One that is further from all points than
    these are from each other has a strip of axes of its own, with its own scale, so that the
    points can be told apart.

    Args:
        points: one or more.
        path: the figure, .png, .pdf or .svg; written atomically.
        labels: of the horizontal and of the vertical axis.
        levels: name to values; those without values are left out.

    Raises UserError as `figures.save_figure` does.
    """
    figure, axes = new_figure(SIZE)
    heights = [point.y for point in points]
    bands = {name: (min(values), max(values)) for name, values in levels.items() if values}
    span = max(heights) - min(heights) or 0.01
    below = {n: band for n, band in bands.items() if band[1] < min(heights) - span}
    above = {n: band for n, band in bands.items() if band[0] > max(heights) + span}
    near = {name: band for name, band in bands.items() if name not in {**below, **above}}
    bottom = (_STRIP + _GAP) * bool(below)
    share = 1.0 - bottom - (_STRIP + _GAP) * bool(above)
    axes.set_position((0.0, bottom, 1.0, share))
    axes.scatter([point.x for point in points], heights, s=16, color=LINES[0], zorder=3)
    axes.margins(0.06)
    _style(axes)
    _draw_bands(axes, near)
    lowest, highest = axes, axes
    if below:
        lowest = _strip(figure, axes, 0.0, below)
        _break(axes, lowest)
    if above:
        highest = _strip(figure, axes, 1.0 - _STRIP, above)
        _break(highest, axes)
    axes.set_xlim(*axes.get_xlim())
    axes.set_ylim(*axes.get_ylim())
    _write_names(axes, points, np.array([SIZE[0], SIZE[1] * share]))
    lowest.set_xlabel(labels[0], fontsize=9, color=INK)
    axes.set_ylabel(labels[1], fontsize=9, color=INK)
    write_title(highest, title, SIZE[0])
    save_figure(figure, path)


def _style(axes: Axes) -> None:
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_bands(axes: Axes, bands: Mapping[str, tuple[float, float]]) -> None:
    """Draw bands, each with its name to the right of the axes."""
    lowest = min(bands.values(), default=None)
    for name, (low, high) in bands.items():
        # Of two bands that may be close, one is named below its line and one above.
        place = "center" if len(bands) == 1 else "top" if (low, high) == lowest else "bottom"
        axes.axhspan(low, high, color=INK, alpha=0.12, linewidth=0)
        middle = (low + high) / 2
        axes.axhline(middle, color=INK, linestyle=(0, (4, 3)), linewidth=1.0)
        values = f"{low:.3f}" if high - low < 0.0005 else f"{low:.3f} to {high:.3f}"
        axes.annotate(
            f"{name}: {values}",
            (1.02, middle),
            xycoords=("axes fraction", "data"),
            va=place,
            fontsize=8,
            color=INK,
        )


def _strip(
    figure: Figure, axes: Axes, bottom: float, bands: Mapping[str, tuple[float, float]]
) -> Axes:
    """Axes for levels alone, as wide as ``axes``, from ``bottom`` (a share of the height) up."""
    strip = figure.add_axes((0.0, bottom, 1.0, _STRIP), sharex=axes)
    _style(strip)
    _draw_bands(strip, bands)
    low, high = min(low for low, _ in bands.values()), max(high for _, high in bands.values())
    margin = max(0.005, high - low)
    strip.set_ylim(low - margin, high + margin)
    strip.set_yticks([(low + high) / 2], [f"{(low + high) / 2:.2f}"])
    return strip


def _break(upper: Axes, lower: Axes) -> None:
    """Show that the vertical axis is not one between these two."""
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(axis="x", length=0, labelbottom=False)
    mark: dict[str, Any] = {
        "marker": [(-1, -0.6), (1, 0.6)],
        "markersize": 7,
        "linestyle": "none",
        "color": INK,
        "clip_on": False,
    }
    upper.plot([0], [0], transform=upper.transAxes, **mark)
    lower.plot([0], [1], transform=lower.transAxes, **mark)


def _write_names(axes: Axes, points: Sequence[NamedPoint], size: Places) -> None:
    """Write names beside their points; ``size`` is that of the axes in inch."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    scale = size / np.array([right - left, high - low])
    places = np.array([[point.x - left, point.y - low] for point in points]) * scale
    boxes = np.array([[_LETTER * len(point.name), _LINE] for point in points])
    for point, place, middle, box in zip(points, places, place_names(places, boxes, size), boxes):
        # From the name's edge, not from its middle, a line is as long as it looks.
        gap = np.maximum(np.abs(middle - place) - box / 2, 0.0)
        line = {"arrowstyle": "-", "color": _FAINT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            point.name,
            (point.x, point.y),
            xytext=tuple((middle - place) * _POINTS_PER_INCH),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_NAME_SIZE,
            color=INK,
            arrowprops=line if math.hypot(*gap) > _NEAR else None,
        )


def place_names(places: Places, boxes: Places, size: Places) -> Places:
    """Where to write the names of points, so that they cover each other as little as they can.

    Each name in turn takes the best place about its point beside all others, three times over.

    Args:
        places: (N, 2), of the points from the lower left corner, inch.
        boxes: (N, 2), widths and heights of the names, inch.
        size: (2,), of the picture, inch.

    Returns:
        (N, 2): the middles of the names, inch.
    """
    angles = np.arange(_DIRECTIONS) * 2 * math.pi / _DIRECTIONS
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    middles = places + np.array([1.0, 0.0]) * (boxes / 2 + _DISTANCES[0])
    for index in list(range(len(places))) * _ROUNDS:
        others = np.arange(len(places)) != index
        far = np.repeat(_DISTANCES, len(rays))
        moves = np.tile(rays, (len(_DISTANCES), 1)) * (boxes[index] / 2 + far[:, None])
        tried = places[index] + moves
        covered = _overlap(tried, boxes[index], middles[others], boxes[others])
        hidden = _overlap(tried, boxes[index], places, np.full_like(places, _DOT))
        outside = (np.abs(tried - size / 2) > (size - boxes[index]) / 2).any(axis=1)
        # Distances are below 1 inch, so that they decide only where nothing is covered.
        cost = far + 100 * (covered + hidden) + 100 * outside
        middles[index] = tried[np.argmin(np.round(cost, 9))]
    return middles


def _overlap(
    middles: Places, box: Places, other_middles: Places, other_boxes: Places
) -> NDArray[np.float64]:
    """The number of others that a box covers at each of (K, 2) places, each counted as one and the
    share of the box that it covers: (K,)."""
    apart = np.abs(middles[:, None] - other_middles[None])
    shared = np.clip((box + other_boxes)[None] / 2 - apart, 0.0, None).prod(axis=2)
    return np.asarray(((shared > 0) + shared / box.prod()).sum(axis=1))


def draw_tree(distances: Places, names: Sequence[str], path: Union[str, Path], title: str) -> None:
    """Draw the tree of things by average linkage, over the likeness at which branches join.

    Args:
        distances: (N, N) for two things or more, symmetric, 1 - likeness.
        names: of the things.
        path: the figure, .png, .pdf or .svg; written atomically.

    Raises UserError as `figures.save_figure` does.
    """
    from scipy.cluster.hierarchy import average, dendrogram

    condensed = np.asarray(distances)[np.triu_indices(len(names), 1)]
    links = average(condensed)
    tree = dendrogram(links, no_plot=True)
    joins = 1 - links[:, 2]
    # Leaves end beside the first join: where alike masks are all far from 1, nothing could be seen.
    span = max(float(np.ptp(joins)), 0.02 * (1 - float(joins.min())), 1e-6)
    end = min(1.0, float(joins.max()) + 0.15 * span)
    width = 5.2
    figure, axes = new_figure((width, max(1.6, 0.24 * len(names))))
    for heights, places in zip(tree["dcoord"], tree["icoord"]):
        xs = [end if height == 0.0 else 1 - height for height in heights]
        axes.plot(xs, [(place - 5) / 10 for place in places], color=LINES[0], linewidth=1.4)
    axes.set_yticks(range(len(names)), [names[leaf] for leaf in tree["leaves"]])
    axes.set_xlim(float(joins.min()) - 0.06 * span, end)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=9, colors=INK)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("mean cosine of the masks that join", fontsize=9, color=INK)
    write_title(axes, title, width)
    save_figure(figure, path)
