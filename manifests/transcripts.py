"""Transcript files with a line `NAME TEXT` for each recording."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

from speechprune.errors import UserError
from speechprune.manifests.lines import read_lines


def read_transcripts(path: Path) -> Iterator[tuple[int, str, str]]:
    """Number of the line, counted from 1, name and text, perhaps "", of each recording.

    Raises UserError, with the line, for a name that is there twice.
    """
    seen: set[str] = set()
    for number, line in enumerate(read_lines(path), start=1):
        name, _, text = line.strip().partition(" ")
        if not name:
            continue
        if name in seen:
            raise UserError(f"{path} line {number}: {name} is there twice")
        seen.add(name)
        yield number, name, text
