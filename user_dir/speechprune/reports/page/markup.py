"""Pieces of HTML, in which whatever is not made here is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Union

#: What HTML cannot hold, or would be lost from the page unseen.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_EMPTY = frozenset({"br", "circle", "line", "meta", "path", "polyline", "rect", "use"})


class Markup(str):
    """HTML that is safe to be put into a page as it is."""

    __slots__ = ()


Child = Union[str, int, Iterable["Child"]]
Attribute = Union[str, int, float, bool, None]


def text(value: object) -> Markup:
    """Text as HTML; what it cannot hold is replaced by U+FFFD."""
    return Markup(escape(_CONTROLS.sub("\ufffd", str(value)), quote=True))


def element(tag: str, *children: Child, **attributes: Attribute) -> Markup:
    """An element.

    Args:
        children: markup, text, which is escaped, or any of these in lists.
        attributes: an underscore at the end is left out, others become hyphens; True stands for
            an attribute without a value; None and False are left out.
    """
    given = "".join(
        f" {_name(name)}" if value is True else f' {_name(name)}="{text(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in _EMPTY and not children:
        return Markup(f"<{tag}{given}/>" if tag not in ("br", "meta") else f"<{tag}{given}>")
    return Markup(f"<{tag}{given}>{joined(children)}</{tag}>")


def joined(children: Iterable[Child]) -> Markup:
    """Markup and escaped text, one after the other."""
    return Markup("".join(map(_child, children)))


def name_of(value: object) -> Markup:
    """A name from outside: it does not change the direction of what stands beside it."""
    return element("bdi", str(value))


def paragraph(*children: Child, **attributes: Attribute) -> Markup:
    """A paragraph."""
    return element("p", *children, **attributes)


def remarks(lines: Sequence[Child]) -> Markup:
    """What is missing or doubtful: a list of lines; nothing if there are none."""
    if not lines:
        return Markup()
    items = [element("li", line) for line in lines]
    return element("ul", items, class_="remarks")


def table(
    caption: str,
    head: Sequence[Child],
    rows: Sequence[Sequence[Child]],
    *,
    left: int = 1,
    class_: str | None = None,
) -> Markup:
    """A table in a box that scrolls sideways where it is too wide for the page.

    Args:
        head: the cells of the first row.
        rows: the others; the first cell of each is its head. A cell may be an element `td`.
        left: columns that are flush left; the others hold numbers.
    """
    top = [
        element("th", cell, scope="col", class_="text" if n < left else None)
        for n, cell in enumerate(head)
    ]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            [_cell(cell, n + 1 < left) for n, cell in enumerate(row[1:])],
        )
        for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", top)),
            element("tbody", body),
            class_=class_,
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex=0,
    )


def shaded(value: float | None, shown: str, *, low: float = 0.0, high: float = 1.0) -> Markup:
    """A cell whose shade is a value's place between two others, with the value as text."""
    if value is None:
        return element("td", shown, class_="none")
    share = (value - low) / (high - low) if high > low else 1.0
    return element("td", shown, class_=f"shade s{round(20 * min(1.0, max(0.0, share)))}")


def _cell(cell: Child, is_text: bool) -> Markup:
    if isinstance(cell, Markup) and cell.startswith("<td"):
        return cell
    return element("td", cell, class_="text" if is_text else None)


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _plain(value: Attribute) -> str:
    """Numbers of a drawing need no more than hundredths."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _child(child: Child) -> str:
    if isinstance(child, Markup):
        return child
    if isinstance(child, (str, int)):
        return text(child)
    return joined(child)
