"""Kaldi data folders: `wav.scp`, `text`, and where they exist `segments` and `utt2spk`."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, NamedTuple, Optional

from speechprune.errors import UserError
from speechprune.manifests.corpora.base import CORPORA, CorpusReader, labels_option
from speechprune.manifests.corpus import Clip, Corpus, Segment
from speechprune.manifests.labels import LabelKind, make_labels
from speechprune.manifests.lines import read_lines
from speechprune.registry import option


@CORPORA.register("kaldi")
@dataclass(frozen=True)
class Kaldi(CorpusReader):
    """Kaldi data: a folder with wav.scp and text, or a folder of such."""

    language: str = option("ISO code of the language, such as en or zh.")
    # Kaldi's scripts write paths relative to where they were run.
    audio: Optional[Path] = option(
        "Folder that relative paths in wav.scp start from; the current folder by default.", None
    )
    labels: LabelKind = labels_option()

    def read(self, folder: Path) -> Corpus:
        """The splits below `folder`: each folder that has a `wav.scp`, or `folder` itself.

        Raises:
            UserError: there is no `wav.scp`; an entry is a command, which is never run; a name is
                there twice; or utterances, recordings and transcripts do not match.
        """
        labels = make_labels(self.labels, self.language)
        start = (self.audio or Path.cwd()).absolute()
        clips = {each.name: _read(each, start) for each in _folders(folder.absolute())}
        sources = [clip.source for split in clips.values() for clip in split if not clip.problem]
        folders = list(map(os.path.dirname, sources)) or [str(folder.absolute())]
        common = Path(os.path.commonpath(folders))
        relative = {
            name: [clip if clip.problem else _below(common, clip) for clip in split]
            for name, split in clips.items()
        }
        options = {"folder": folder.absolute().name}
        return Corpus("Kaldi", self.language, common, relative, labels, options=options)


def _below(folder: Path, clip: Clip) -> Clip:
    return clip._replace(source=Path(clip.source).relative_to(folder).as_posix())


def _folders(root: Path) -> list[Path]:
    """Those with a `wav.scp`."""
    if (root / "wav.scp").is_file():
        return [root]
    found = sorted(path.parent for path in root.glob("*/wav.scp")) if root.is_dir() else []
    if not found:
        raise UserError(f"{root} holds no Kaldi data: no wav.scp in it or in a folder of it")
    return found


def _read(folder: Path, start: Path) -> list[Clip]:
    """Clips whose sources are absolute paths."""
    heard = _recordings(folder / "wav.scp", start)
    transcripts = _table(folder / "text")
    speakers = _table(folder / "utt2spk") if (folder / "utt2spk").exists() else {}
    if (folder / "segments").exists():
        heard = _segments(folder / "segments", heard)
    _match(folder, transcripts, heard)
    return [
        heard[name]._replace(transcript=row.rest, speaker=speakers.get(name, _NO_ROW).rest)
        for name, row in transcripts.items()
    ]


def _recordings(path: Path, start: Path) -> dict[str, Clip]:
    """A clip without a transcript for each recording."""
    found = {}
    for name, (number, entry) in _table(path).items():
        if entry.endswith("|") or entry.startswith("|"):
            raise UserError(
                f"{path} line {number}: {entry!r} is a command, which is never run; write its "
                "output to a file and name that"
            )
        found[name] = (
            Clip(os.path.normpath(start / entry), "")
            if entry
            else Clip.unusable(name, f"has no file in {path.name} line {number}")
        )
    return found


def _segments(path: Path, recordings: Mapping[str, Clip]) -> dict[str, Clip]:
    """A clip without a transcript for each segment."""
    found = {}
    for name, (number, entry) in _table(path).items():
        try:
            recording, start, end = entry.split()
            begin, until = float(start), float(end)
        except ValueError:
            problem = (
                f"has {entry!r} in {path.name} line {number}, not `RECORDING START END` (channels "
                "are not told apart)"
            )
            found[name] = Clip.unusable(name, problem)
            continue
        if recording not in recordings:
            raise UserError(f"{path} line {number}: no recording {recording!r} in wav.scp")
        to_the_end = until == -1  # as Kaldi has it
        if not (0 <= begin < math.inf and (to_the_end or begin < until < math.inf)):
            problem = f"lasts from {begin:g} to {until:g} s in {path.name} line {number}"
            found[name] = Clip.unusable(name, problem)
            continue
        segment = Segment(name, begin, None if to_the_end else until)
        found[name] = recordings[recording]._replace(segment=segment)
    return found


class _Row(NamedTuple):
    """A line without its key; lines are counted from 1."""

    number: int
    rest: str


_NO_ROW = _Row(0, "")


def _table(path: Path) -> dict[str, _Row]:
    """Kaldi's one format: a key, white space, and the rest of the line."""
    found: dict[str, _Row] = {}
    for number, line in enumerate(read_lines(path), start=1):
        key, _, rest = line.strip().replace("\t", " ").partition(" ")
        if key in found:
            raise UserError(f"{path} line {number}: {key!r} is there twice")
        if key:
            found[key] = _Row(number, rest.strip())
    if not found:
        raise UserError(f"{path} is empty")
    return found


def _match(folder: Path, transcripts: Mapping[str, object], heard: Mapping[str, object]) -> None:
    """Refuse a transcript without audio, and audio without a transcript."""
    unheard = next((name for name in transcripts if name not in heard), None)
    if unheard is not None:
        raise UserError(f"{folder / 'text'}: utterance {unheard!r} has no audio")
    unwritten = next((name for name in heard if name not in transcripts), None)
    if unwritten is not None:
        raise UserError(f"{folder}: utterance {unwritten!r} has no transcript in text")
