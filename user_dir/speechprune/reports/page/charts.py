"""Charts as SVG within a page: their colours are the page's own, in daylight, dark and print.

Series are told apart by marks and dashes as well as by colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speechprune.intervals import Interval
from speechprune.reports.page.markup import Markup, element, name_of
from speechprune.reports.page.scales import Scale, scale_of, short

#: Of a drawing, in its own units, which are about pixels on a phone.
WIDTH, HEIGHT = 340.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 14.0, 10.0, 40.0
#: More points than a line of this width could show are drawn as means.
MOST_POINTS = 240
#: How many looks there are before they come again.
LOOKS = 8
_MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
    "M-3.6-3.6H3.6V3.6H-3.6Z",
    "M0-4.8L4.8 0L0 4.8L-4.8 0Z",
    "M0-4.6L4.4 3.6H-4.4Z",
    "M0 4.6L4.4-3.6H-4.4Z",
    "M-1.4-4.4H1.4V-1.4H4.4V1.4H1.4V4.4H-1.4V1.4H-4.4V-1.4H-1.4Z",
    "M-4.6-3L-3-4.6L0-1.6L3-4.6L4.6-3L1.6 0L4.6 3L3 4.6L0 1.6L-3 4.6L-4.6 3L-1.6 0Z",
    "M-4.6-2L4.6-2L4.6 2L-4.6 2Z",
)


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        name: as the legend has it.
        look: its number there, which tells colour, mark and dashes.
        x, y: as many finite floats each; x ascends if a line is drawn.
        labels: what each point is called; none for points of a line.
        dashed: for a second line of the same series.
        intervals: of which each y is the median, for points; none if nothing was repeated.
    """

    name: str
    look: int
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()
    dashed: bool = False
    intervals: Sequence[Interval] = ()

    @property
    def heights(self) -> list[float]:
        """What an axis has to hold: all y, and the ends of intervals."""
        return [*self.y, *(end for each in self.intervals for end in (each.least, each.most))]


@dataclass(frozen=True)
class Chart:
    """Series in one pair of axes.

    Attributes:
        title: what is shown, as a heading.
        x_label, y_label: with units.
        series: at least one, with at least one point.
        lines: whether the points of a series are joined.
        from_zero: whether both axes begin at 0; that of a line's x does so anyway.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    lines: bool = False
    from_zero: bool = False

    def draw(self) -> Markup:
        """The chart as a figure with its title."""
        x = scale_of(
            [v for each in self.series for v in each.x], from_zero=self.from_zero or self.lines
        )
        y = scale_of([v for each in self.series for v in each.heights], from_zero=self.from_zero)
        content = [*_axes(x, y), *_labels(self.x_label, self.y_label)]
        for each in self.series:
            content += _line(each, x, y) if self.lines else _points(each, x, y)
        drawing = element(
            "svg",
            element("title", f"{self.title}: {self.y_label} against {self.x_label}"),
            content,
            viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
            role="img",
        )
        return element("figure", element("figcaption", self.title), drawing, class_="chart")


def legend(names: Sequence[str]) -> Markup:
    """What the looks of series stand for, in their order."""
    items = []
    for look, name in enumerate(names):
        mark = element(
            "svg",
            element("line", x1=0, x2=30, y1=7, y2=7, class_=f"line {_look(look)}"),
            _mark(look, 15.0, 7.0),
            viewBox="0 0 30 14",
            aria_hidden="true",
        )
        items.append(element("li", mark, name_of(name)))
    return element("ul", items, class_="legend")


def charts(drawn: Sequence[Chart]) -> Markup:
    """Charts side by side where the page is wide enough."""
    return element("div", [chart.draw() for chart in drawn], class_="charts")


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means of neighbours, as many for each point, where there are more than `MOST_POINTS`."""
    size = -(-len(x) // MOST_POINTS)
    if size <= 1:
        return list(x), list(y)
    parts = [slice(start, start + size) for start in range(0, len(x), size)]
    return [_mean(x[part]) for part in parts], [_mean(y[part]) for part in parts]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _look(number: int) -> str:
    return f"c{number % LOOKS}"


def _across(scale: Scale, value: float) -> float:
    return _LEFT + scale.share(value) * (WIDTH - _LEFT - _RIGHT)


def _up(scale: Scale, value: float) -> float:
    return HEIGHT - _BOTTOM - scale.share(value) * (HEIGHT - _TOP - _BOTTOM)


def _axes(x: Scale, y: Scale) -> list[Markup]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    drawn = []
    for value in y.ticks:
        place = _up(y, value)
        drawn.append(element("line", x1=_LEFT, x2=right, y1=place, y2=place, class_="grid"))
        drawn.append(element("text", short(value), x=_LEFT - 6, y=place + 3.5, class_="tick y"))
    for value in x.ticks:
        place = _across(x, value)
        drawn.append(element("line", x1=place, x2=place, y1=bottom, y2=bottom + 4, class_="axis"))
        drawn.append(element("text", short(value), x=place, y=bottom + 15, class_="tick x"))
    drawn.append(element("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    return drawn


def _labels(x_label: str, y_label: str) -> list[Markup]:
    middle = _TOP + (HEIGHT - _TOP - _BOTTOM) / 2
    across = (_LEFT + WIDTH - _RIGHT) / 2
    return [
        element("text", x_label, x=across, y=HEIGHT - 7, class_="label"),
        element(
            "text",
            y_label,
            x=0,
            y=0,
            class_="label",
            transform=f"translate(11 {middle:.0f}) rotate(-90)",
        ),
    ]


def _line(series: Series, x: Scale, y: Scale) -> list[Markup]:
    """A line, and its mark at the last point."""
    xs, ys = thinned(series.x, series.y)
    places = [(_across(x, a), _up(y, b)) for a, b in zip(xs, ys)]
    look = f"line {_look(series.look)}{' dashed' if series.dashed else ''}"
    joined_points = " ".join(f"{a:.2f},{b:.2f}" for a, b in places)
    drawn = [element("polyline", points=joined_points, class_=look)] if len(places) > 1 else []
    return [*drawn, _mark(series.look, *places[-1])]


def _points(series: Series, x: Scale, y: Scale) -> list[Markup]:
    labels = series.labels or [series.name] * len(series.x)
    bars = [
        _bar(series.look, _across(x, a), _up(y, each.least), _up(y, each.most))
        for a, each in zip(series.x, series.intervals)
        if each.count > 1
    ]
    return bars + [
        _mark(series.look, _across(x, a), _up(y, b), f"{label}: {short(a)}, {short(b)}")
        for a, b, label in zip(series.x, series.y, labels)
    ]


def _bar(look: int, x: float, least: float, most: float) -> Markup:
    """From the least to the most of what a mark is the median of."""
    return element("line", x1=x, x2=x, y1=least, y2=most, class_=f"line {_look(look)}")


def _mark(look: int, x: float, y: float, title: str = "") -> Markup:
    """The sign of a look; a title is shown by a browser where the pointer rests."""
    return element(
        "path",
        *([element("title", title)] if title else []),
        d=_MARKS[look % LOOKS],
        transform=f"translate({x:.2f} {y:.2f})",
        class_=f"mark {_look(look)}",
    )
