"""`SPLIT.tsv`, and the files whose lines belong to its rows.

The first line is the folder of the audio; each row is `path below it<TAB>samples`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.lines import read_lines

#: Path below the folder of the audio, and samples.
Row = tuple[str, int]


def split_names(folder: Path) -> list[str]:
    """The splits of a manifest folder, sorted. Raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; name a manifest folder")
    names = sorted(file.stem for file in folder.glob("*.tsv") if not file.name.startswith("."))
    if not names:
        raise UserError(f"{folder} holds no SPLIT.tsv; name a manifest folder")
    return names


def check_split_name(name: str) -> None:
    """Raise UserError for what cannot be the name of a split's files."""
    if re.fullmatch(r"[\w-][\w.-]*", name) is None:
        raise UserError(f"{name!r} cannot be the name of a split; use letters and digits")


def read_raw_rows(path: Path) -> tuple[str, list[str]]:
    """The folder of the audio, and at least one row as it stands in the file.

    Raises UserError if the file is missing, not text, or without rows.
    """
    lines = read_lines(path)
    if len(lines) < 2:
        raise UserError(f"{path} lists no recording; prepare the corpus again")
    return lines[0].strip(), lines[1:]


def read_rows(path: Path) -> tuple[str, list[Row]]:
    """The folder of the audio, and at least one row.

    Raises UserError if the file is missing, malformed, or without rows.
    """
    root, lines = read_raw_rows(path)
    rows = []
    for number, line in enumerate(lines, start=2):
        row = parse_row(line)
        if row is None:
            raise UserError(f"{path} line {number}: expected `path<TAB>samples`, got {line!r}")
        rows.append(row)
    return root, rows


def parse_row(line: str) -> Row | None:
    """A row taken apart as fairseq does; None if it is malformed."""
    path, _, frames = line.strip().partition("\t")
    # Not isdigit: that allows superscripts. More digits do not fit in fairseq's 64 bits.
    is_count = frames.isdecimal() and len(frames) <= 18 and int(frames)
    return (path, int(frames)) if path and is_count else None


def read_column(folder: Path, split: str, ending: str, count: int) -> list[str]:
    """The lines of `split.ending`, one for each of `count` recordings.

    Raises UserError if the file is missing, not text, or has another number of lines.
    """
    lines = read_lines(folder / f"{split}.{ending}")
    if len(lines) != count:
        raise UserError(
            f"{folder / split}.{ending} has {len(lines)} lines for {count} recordings in "
            f"{split}.tsv; prepare both again"
        )
    return lines


def audio_key(root: str, path: str) -> str:
    """The same for every spelling of one recording."""
    return os.path.normpath(f"{root}/{path}")


def described_size(frames: Sequence[int]) -> dict[str, Any]:
    """What a provenance says about the size of a split, whose recordings have so many samples."""
    return {"utterances": len(frames), "hours": round(sum(frames) / SAMPLE_RATE / 3600, 6)}
