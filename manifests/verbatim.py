"""Manifest folders of any origin, read and written line by line: no label is ever respelt.

`manifest.read_split` takes labels for words or units; a folder of someone else may spell otherwise.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune import __version__
from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.manifest import PROVENANCE, read_lines, write_lines

DICTIONARY = "dict.ltr.txt"
#: Between the words of labels that are letters; labels without it are units.
WORD_END = "|"
#: The key of `provenance.json` that tells who speaks in train and in test because a corpus means to
#: test on speakers whom training knows.
SHARED_SPEAKERS = "shared_speakers"

_OVERWRITE = " #fairseq:overwrite"


@dataclass(frozen=True)
class Lines:
    """A split as its files hold it; all lists are aligned.

    Attributes:
        name: of the split.
        root: the folder of the audio, as the first line of the .tsv says.
        paths: below it.
        frames: samples of each recording.
        columns: lines by file ending: "ltr", and "wrd" and "spk" where there are such files.
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


def split_names(folder: Path) -> list[str]:
    """The splits of a manifest folder, sorted. Raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; name a manifest folder")
    names = sorted(file.stem for file in folder.glob("*.tsv") if not file.name.startswith("."))
    if not names:
        raise UserError(f"{folder} holds no SPLIT.tsv; name a manifest folder")
    return names


def read_rows(folder: Path, name: str) -> list[str]:
    """The lines of `name.tsv`: the root, and at least one row.

    Raises UserError if it is missing, no text, or without rows.
    """
    rows = read_lines(folder / f"{name}.tsv")
    if len(rows) < 2:
        raise UserError(f"{folder / name}.tsv lists no recording; prepare the corpus again")
    return rows


def parse_row(row: str) -> tuple[str, int] | None:
    """Path and samples, taken apart as fairseq does; None if the row is malformed."""
    path, _, frames = row.strip().partition("\t")
    # Not isdigit: that allows superscripts.
    return (path, int(frames)) if path and frames.isdecimal() and int(frames) else None


def read_verbatim(folder: Path, name: str) -> Lines:
    """Read a split.

    Raises UserError if a file is missing or malformed, or the line counts differ.
    """
    root, *rows = read_rows(folder, name)
    paths, frames = [], []
    for number, row in enumerate(rows, start=2):
        parsed = parse_row(row)
        if parsed is None:
            raise UserError(
                f"{folder / name}.tsv line {number}: expected `path<TAB>samples`, got {row!r}"
            )
        paths.append(parsed[0])
        frames.append(parsed[1])
    columns = {}
    for ending in ("ltr", "wrd", "spk"):
        file = folder / f"{name}.{ending}"
        if ending != "ltr" and not file.exists():
            continue
        columns[ending] = read_lines(file)
        if len(columns[ending]) != len(rows):
            raise UserError(
                f"{file} has {len(columns[ending])} lines for {len(rows)} recordings in "
                f"{name}.tsv; prepare both again"
            )
    return Lines(name, root.strip(), paths, frames, columns)


def write_verbatim(folder: Path, lines: Lines) -> dict[str, Any]:
    """Write a split; returns its sizes as `provenance.json` tells them."""
    rows = (f"{path}\t{frames}" for path, frames in zip(lines.paths, lines.frames))
    write_lines(folder / f"{lines.name}.tsv", [lines.root, *rows])
    for ending, column in lines.columns.items():
        write_lines(folder / f"{lines.name}.{ending}", column)
    hours = round(sum(lines.frames) / SAMPLE_RATE / 3600, 6)
    return {"utterances": len(lines), "hours": hours}


def read_dictionary(path: Path) -> tuple[dict[str, int], set[str]]:
    """Count by symbol, in file order; and the symbols that fairseq is told to overwrite.

    Raises UserError if the file is missing or malformed.
    """
    counts: dict[str, int] = {}
    overwritten = set()
    for number, line in enumerate(read_lines(path), start=1):
        plain = line[: -len(_OVERWRITE)] if line.endswith(_OVERWRITE) else line
        symbol, _, count = plain.rpartition(" ")
        if not symbol or not count.isdecimal():
            raise UserError(f"{path} line {number}: expected `symbol count`, got {line!r}")
        if symbol in counts and plain == line:
            raise UserError(
                f"{path} line {number}: {symbol!r} is there twice, which fairseq refuses"
            )
        counts[symbol] = int(count)
        if plain != line:
            overwritten.add(symbol)
    return counts, overwritten


def write_dictionary(path: Path, counts: Mapping[str, int], overwritten: set[str]) -> None:
    """Write what `read_dictionary` reads: the most frequent first, ties by symbol."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    write_lines(
        path, [f"{s} {count}{_OVERWRITE if s in overwritten else ''}" for s, count in ranked]
    )


def read_provenance(folder: Path) -> dict[str, Any]:
    """What `provenance.json` says; nothing if there is none.

    Raises UserError if it is no JSON object.
    """
    path = folder / PROVENANCE
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object; remove it if it is not ours")
    return found


def shared_speakers(provenance: Mapping[str, Any]) -> list[str]:
    """Who may be trained and tested on; as a rule nobody."""
    found = provenance.get(SHARED_SPEAKERS)
    return list(map(str, found)) if isinstance(found, list) else []


def told_of(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What `provenance.json` tells of a folder that was prepared with `wanted` settings.

    Raises UserError if it was prepared with others.
    """
    found = read_provenance(folder)
    for key, value in json.loads(json.dumps(wanted)).items():
        if found.get(key) != value:
            raise UserError(
                f"{folder} was prepared with {key} {found.get(key)!r}, not {value!r}; choose "
                "another folder or add --overwrite"
            )
    return found


def write_provenance(folder: Path, described: Mapping[str, Any]) -> None:
    """Write `provenance.json`, with our version added."""
    text = json.dumps(
        {"speechprune": __version__, **described}, indent=2, sort_keys=True, ensure_ascii=False
    )
    write_lines(folder / PROVENANCE, [text])


def source_of(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What the provenance of a new folder tells of the folder that it was made from."""
    return {"folder": folder.resolve().name, "provenance": dict(provenance) or None}


def keep_sources(out: Path, sources: Sequence[Path]) -> None:
    """Refuse to replace `out` if a source, or the audio of one, lies in it.

    Raises UserError in that case, or if a source is no manifest folder.
    """
    if not out.exists():
        return
    for source in sources:
        roots = [read_rows(source, name)[0].strip() for name in split_names(source)]
        for path in (source, *map(Path, sorted(set(roots)))):
            if path.resolve().is_relative_to(out.resolve()):
                raise UserError(
                    f"{path} would be lost if {out} was replaced; choose another folder"
                )


def audio_key(root: str, path: str) -> str:
    """The same for every spelling of one recording."""
    return os.path.normpath(f"{root}/{path}")
