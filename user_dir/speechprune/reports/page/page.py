"""The page: sections under one head, with nothing from elsewhere and nothing that runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import speechprune
from speechprune.errors import UserError
from speechprune.files import check_output, replacing_file
from speechprune.reports.page.contents import Contents
from speechprune.reports.page.examples import add_examples
from speechprune.reports.page.markup import Markup, element, paragraph, remarks
from speechprune.reports.page.reading import Reader, Wanted
from speechprune.reports.page.sections import (
    curves,
    errors,
    examples,
    layers,
    masks,
    slimming,
    speed,
)
from speechprune.reports.page.sources import find_sources

STYLE = Path(speechprune.__file__).parent / "assets" / "report.css"

#: By the name that links and remarks have for them.
_SECTIONS: dict[str, ModuleType] = {
    "errors": errors,
    "speed": speed,
    "training": curves,
    "masks": masks,
    "layers": layers,
    "slim": slimming,
    "examples": examples,
}


def read_contents(arguments: Sequence[Path], wanted: Wanted) -> Contents:
    """What runs and files say, evaluated and transcribed as far as that is wanted.

    Raises:
        UserError: an argument does not exist, holds nothing to report on, or is damaged.
    """
    reader = Reader(wanted)
    contents = reader.read(find_sources(arguments, wanted.which))
    if wanted.subset is not None and wanted.examples:
        add_examples(
            contents,
            reader.finished,
            reader.checkpoints,
            wanted.subset,
            wanted.data,
            wanted.examples,
        )
    return contents


def page_of(contents: Contents, title: str) -> str:
    """The whole page; equal contents give equal pages."""
    style = STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(style)),
    ]
    links = [
        element("li", element("a", module.TITLE, href=f"#{name}"))
        for name, module in _SECTIONS.items()
    ]
    body = [
        element(
            "header",
            element("h1", title),
            element("nav", element("ul", links), aria_label="Sections"),
        ),
        element("main", [_section(name, module, contents) for name, module in _SECTIONS.items()]),
        element("footer", paragraph(f"Made by speechprune {speechprune.__version__}.")),
    ]
    whole = element("html", element("head", head), element("body", body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def _section(name: str, module: ModuleType, contents: Contents) -> Markup:
    return element(
        "section",
        element("h2", module.TITLE, id=f"{name}-title"),
        module.section(contents),
        remarks(contents.missing.get(name, [])),
        id=name,
        aria_labelledby=f"{name}-title",
    )


def check_page(path: Path) -> None:
    """Raise UserError unless a page may be written to ``path``: nothing is there, or a page."""
    check_output(path)
    if path.is_file() and path.stat().st_size and not _is_page(path):
        raise UserError(
            f"{path} is there already, and holds another kind of file; name another file, or "
            "remove it"
        )


def save_page(page: str, path: Path) -> None:
    """Write a page, whole or not at all.

    Raises:
        UserError: it cannot be written, or a file of another kind is there.
    """
    check_page(path)
    with replacing_file(path) as file:
        file.write(page.encode())


def _is_page(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(64).lstrip().lower().startswith((b"<!doctype html", b"<html"))
