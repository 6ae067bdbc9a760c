"""The figure of `benchmarks.slimming`: error against size and against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

from speechprune.curves import LINES, MARKERS, PANEL, legend_beside
from speechprune.figures import INK, new_figure, save_figure

#: Methods whose sizes differ by no more of the smaller one stand side by side.
_ALIKE = 0.02


@dataclass(frozen=True)
class Point:
    """A method in one panel; one value for each seed.

    Attributes:
        x: size or time.
        y: errors, in percent.
    """

    x: Sequence[float]
    y: Sequence[float]


def draw(
    sizes: Mapping[str, Point], times: Mapping[str, Point], path: Path, title: str = ""
) -> None:
    """Draw the median of each method as a marker, from its minimum to its maximum.

    Colours are of families of methods, what comes before a comma in a name; markers tell the
    members of a family apart.

    Args:
        sizes: by method, in millions of parameters; those of one size stand side by side.
        times: by method, in milliseconds for a second of audio.
        path: the figure, .png, .pdf or .svg; written atomically.
    """
    figure, left = new_figure((2 * PANEL[0], 1.5 * PANEL[1]))
    left.set_position((0.0, 0.0, 0.45, 1.0))
    right = figure.add_axes((0.55, 0.0, 0.45, 1.0))
    styles = _styles(list(sizes))
    places, together = side_by_side(sizes)
    for name, point in sizes.items():
        _mark(left, Point([places[name]], point.y), styles[name], name)
    for name, point in times.items():
        _mark(right, point, styles[name], name)
    _decorate(left, "parameters of the encoder, millions")
    _decorate(right, "time for a second of audio, ms")
    if together is not None:
        _name_sizes(left, places, sizes, together)
    highest = max(value for point in sizes.values() for value in point.y)
    for axes in (left, right):
        axes.set_ylim(0, 1.05 * highest if highest else 1)
    left.set_title(fill(title, 110), fontsize=11, color=INK, pad=10, loc="left")
    handles, labels = left.get_legend_handles_labels()
    legend_beside(right, dict(zip(labels, handles)))
    save_figure(figure, path)


def side_by_side(sizes: Mapping[str, Point]) -> tuple[dict[str, float], float | None]:
    """Where methods stand along the axis of sizes: where they are, but for those that are as large
    as the smallest one, which would hide each other.

    Returns:
        Places by method, and the size of those that stand side by side; None if none do.
    """
    places = {name: median(point.x) for name, point in sizes.items()}
    smallest, largest = min(places.values()), max(places.values())
    alike = [name for name, place in places.items() if place <= (1 + _ALIKE) * smallest]
    if len(alike) < 2:
        return places, None
    together = median(places[name] for name in alike)
    width = 0.5 * (largest - smallest) or 0.1 * smallest
    step = width / (len(alike) - 1)
    first = together - width / 2
    return {
        **places,
        **{name: first + number * step for number, name in enumerate(alike)},
    }, together


def _name_sizes(
    axes: Any, places: Mapping[str, float], sizes: Mapping[str, Point], together: float
) -> None:
    """Mark only sizes that methods have: between them, a place along the axis is none."""
    own = {places[name] for name, point in sizes.items() if places[name] == median(point.x)}
    ticks = sorted({round(place, 2) for place in (*own, together)})
    axes.set_xticks(ticks, [f"{tick:.2f}" for tick in ticks])
    axes.set_xlabel(
        f"parameters of the encoder, millions (side by side: {together:.2f} each)",
        fontsize=9,
        color=INK,
    )


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour for each family, and a marker for each of its members."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.partition(",")[0], []).append(name)
    return {
        name: {"color": LINES[number % len(LINES)], "marker": MARKERS[member % len(MARKERS)]}
        for number, family in enumerate(families.values())
        for member, name in enumerate(family)
    }


def _mark(axes: Any, point: Point, style: Mapping[str, Any], name: str) -> None:
    (x, across), (y, along) = _interval(point.x), _interval(point.y)
    axes.errorbar(
        [x],
        [y],
        xerr=across,
        yerr=along,
        label=name,
        linestyle="none",
        markersize=6,
        capsize=2,
        elinewidth=1.0,
        **style,
    )


def _interval(values: Sequence[float]) -> tuple[float, list[list[float]]]:
    """The median, and how far the smallest and the largest value are from it."""
    middle = median(values)
    return middle, [[middle - min(values)], [max(values) - middle]]


def _decorate(axes: Any, label: str) -> None:
    axes.set_xlabel(label, fontsize=9, color=INK)
    axes.set_ylabel("WER %, test", fontsize=9, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
