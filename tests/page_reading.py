"""A page of HTML taken apart by the standard library's parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br"}


@dataclass
class Node:
    """An element with its attributes, children and texts."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text within, in order."""
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, tag: str, class_: str = "") -> list[Node]:
        """The elements below of a tag, and with a class if one is named."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                classes = child.attributes.get("class", "").split()
                if child.tag == tag and (not class_ or class_ in classes):
                    found.append(child)
                found += child.all(tag, class_)
        return found

    def table(self, caption: str) -> list[list[str]]:
        """The cells of the one table whose caption begins so, its head included."""
        (found,) = [t for t in self.all("table") if t.all("caption")[0].text.startswith(caption)]
        rows = found.all("tr")
        return [[c.text for c in row.children if isinstance(c, Node)] for row in rows]

    def chart(self, title: str) -> Node:
        """The one figure with this title."""
        (found,) = [f for f in self.all("figure") if f.all("figcaption")[0].text == title]
        return found


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("page")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"{tag} ends within {self.open[-1].tag}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_page(source: Path | str) -> Node:
    """The page; fails if elements are not closed in the order in which they were opened."""
    parser = _Parser()
    parser.feed(source if isinstance(source, str) else source.read_text(encoding="utf-8"))
    parser.close()
    (page,) = parser.open
    return page


def values_of(chart: Node, number: int = 0) -> list[tuple[float, float]]:
    """The points of one of a chart's lines, by the numbers written beside its linear axes."""
    x, y = (_axis(chart, kind) for kind in ("x", "y"))
    pairs = chart.all("polyline")[number].attributes["points"].split()
    points = [tuple(map(float, pair.split(","))) for pair in pairs]
    return [(x[0] + x[1] * a, y[0] + y[1] * b) for a, b in points]


def _axis(chart: Node, kind: str) -> tuple[float, float]:
    """The value at 0 of the drawing, and the value of one unit of it."""
    ticks = [t for t in chart.all("text", "tick") if kind in t.attributes["class"].split()]
    value = {float(t.attributes[kind]) - (3.5 if kind == "y" else 0): t.text for t in ticks}
    places = sorted(value)
    first, last = (float(value[place]) for place in (places[0], places[-1]))
    unit = (last - first) / (places[-1] - places[0])
    return first - unit * places[0], unit
