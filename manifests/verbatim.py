"""Manifest folders of any origin, read and written line by line: no label is ever respelt.

`manifest.read_split` takes labels for words or units; a folder of someone else may spell otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.label_files import SPEAKERS, WORDS
from speechprune.manifests.lines import write_lines
from speechprune.manifests.rows import described_size, read_column, read_rows


@dataclass(frozen=True)
class Lines:
    """A split as its files hold it; all lists are aligned.

    Attributes:
        name: of the split.
        root: the folder of the audio, as the first line of the .tsv says.
        paths: below it.
        frames: samples of each recording.
        columns: lines by file ending, such as "ltr", "wrd" and "spk".
    """

    name: str
    root: str
    paths: Sequence[str]
    frames: Sequence[int]
    columns: Mapping[str, Sequence[str]]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int], name: str) -> Lines:
        """Some of the lines, as a split of another name."""
        return Lines(
            name,
            self.root,
            [self.paths[i] for i in indices],
            [self.frames[i] for i in indices],
            {ending: [lines[i] for i in indices] for ending, lines in self.columns.items()},
        )


def read_verbatim(
    folder: Path, name: str, labels: str = "ltr", others: Sequence[str] = ("wrd", "spk")
) -> Lines:
    """Read a split.

    Args:
        labels: ending of the file of labels.
        others: endings of files to read too, where there are such files.

    Raises:
        UserError: a file is missing or malformed, or the line counts differ.
    """
    root, rows = read_rows(folder / f"{name}.tsv")
    endings = [labels, *(e for e in others if (folder / f"{name}.{e}").exists())]
    columns = {ending: read_column(folder, name, ending, len(rows)) for ending in endings}
    return Lines(name, root, [path for path, _ in rows], [frames for _, frames in rows], columns)


def read_all_labels(folder: Path, name: str, endings: Sequence[str]) -> Lines:
    """Read a split with its words, speakers, and labels of several kinds.

    Only the first kind has to be there. Raises UserError as `read_verbatim`.
    """
    return read_verbatim(folder, name, endings[0], (*endings[1:], WORDS, SPEAKERS))


def below_one_root(blocks: Sequence[Lines]) -> tuple[str, list[str]]:
    """The folder that holds the audio of all blocks, and the paths below it, one block after the
    other.

    Raises UserError if a folder has a name that no manifest can hold.
    """
    roots = [os.path.abspath(block.root) for block in blocks]
    common = os.path.commonpath(roots)
    paths: list[str] = []
    for block, root in zip(blocks, roots):
        below = os.path.relpath(root, common)
        if "\t" in below:
            raise UserError(f"{root!r} has a tab in its name, which a manifest cannot hold")
        paths += block.paths if below == "." else [f"{below}/{path}" for path in block.paths]
    return common, paths


def write_verbatim(folder: Path, lines: Lines) -> dict[str, Any]:
    """Write a split; returns its size as the provenance describes it."""
    rows = (f"{path}\t{frames}" for path, frames in zip(lines.paths, lines.frames))
    write_lines(folder / f"{lines.name}.tsv", [lines.root, *rows])
    for ending, column in lines.columns.items():
        write_lines(folder / f"{lines.name}.{ending}", column)
    return described_size(lines.frames)
