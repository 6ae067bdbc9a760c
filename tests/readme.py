"""What the README and the pages of docs/ show: blocks of code, commands, links and headings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Every page that people read on GitHub or on the site.
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)

_FENCE = "```"
_HEADING = re.compile(r"#{1,6} (.+)")
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)]+)\)")
_RECORD_END = b"\x1e"
#: Takes a program's place: it writes its name and arguments to a file, and does nothing.
_STAND_IN = """#!/bin/sh
{ printf '%s\\0' "${0##*/}" "$@"; printf '\\036'; } >> "$RECORD"
"""
_STAND_INS = (
    *("speechprune", "fairseq-hydra-train", "make", "pip", "python"),
    *("pytest", "ruff", "mypy", "pre-commit", "torchrun", "srun"),
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, where it stands, and the heading above it."""

    page: Path
    line: int
    section: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(language: str | None = None) -> list[Block]:
    """The fenced blocks of all pages, or those of one language, in order."""
    found = [block for page in PAGES for block in _blocks(page)]
    return [block for block in found if language in (None, block.language)]


def readme_snippet(section: str) -> str:
    """The first Python of the section with this heading, on whatever page it is."""
    found = [block.text for block in blocks("python") if block.section == section]
    assert found, section
    return found[0]


def prose(page: Path) -> str:
    """The text of a page without its blocks."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith(_FENCE):
            inside = not inside
        elif not inside:
            lines.append(line)
    return "\n".join(lines) + "\n"


def inline_code(page: Path) -> list[str]:
    """What stands between backticks in the text, in one line each."""
    return [" ".join(code.split()) for code in _INLINE.findall(prose(page))]


def links(page: Path) -> list[str]:
    """The targets of links and images."""
    return ["".join(target.split()) for target in _LINK.findall(_INLINE.sub("", prose(page)))]


def anchors(page: Path) -> list[str]:
    """What the headings of a page are called in links, as GitHub and the site do it."""
    headings = [_HEADING.fullmatch(line) for line in prose(page).splitlines()]
    texts = [heading.group(1).lower() for heading in headings if heading]
    return [re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", text).strip()) for text in texts]


def commands_in(shell: str, folder: Path) -> list[list[str]]:
    """The commands that bash makes of ``shell``, as lists of words; nothing is run.

    Loops, variables, quotes and comments count as bash takes them. Programs are replaced by
    stand-ins that note their arguments; those that have none fail.

    Args:
        folder: where the stand-ins go.
    """
    # A stand-in prints nothing: what it would be redirected to is not to be written.
    assert ">" not in shell, shell
    record = folder / "record"
    record.write_bytes(b"")
    for name in _STAND_INS:
        stand_in = folder / name
        stand_in.write_text(_STAND_IN, encoding="utf-8")
        stand_in.chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None
    program = f'source() {{ test -n "$1"; }}\n{shell}'
    ran = subprocess.run(
        [bash, "-euo", "pipefail", "-c", program],
        cwd=ROOT,
        env={"PATH": str(folder), "RECORD": str(record), "HOME": os.devnull},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    records = record.read_bytes().split(_RECORD_END)[:-1]
    return [[word.decode() for word in each.split(b"\0")[:-1]] for each in records]


def _blocks(page: Path) -> Iterator[Block]:
    section, begin = "", None
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith(_FENCE):
            if begin is None:
                begin = number
            else:
                language = lines[begin - 1].strip()[len(_FENCE) :]
                text = "\n".join(lines[begin : number - 1]) + "\n"
                yield Block(page, begin, section, language, text)
                begin = None
        elif begin is None and (heading := _HEADING.fullmatch(line)):
            section = heading.group(1)
    assert begin is None, f"{page}: the block at line {begin} does not end"
