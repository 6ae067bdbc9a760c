"""A corpus as it was found on disk: who says what in which file, before any audio is read."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Protocol, Sequence

from speechprune.errors import UserError


class Segment(NamedTuple):
    """A part of a recording, from `start` to `end` seconds (None: to its end), called `name`."""

    name: str
    start: float
    end: float | None


class Clip(NamedTuple):
    """One utterance; a tuple, because a corpus may have millions.

    Attributes:
        source: its recording, a path relative to the corpus's root with `/`.
        transcript: as the corpus has it; or classes, see `labelled_corpus`.
        speaker: "" where that is not known.
        segment: None for the whole recording.
        problem: why it cannot be used, where that is known already; else "".
    """

    source: str
    transcript: str
    speaker: str = ""
    segment: Segment | None = None
    problem: str = ""

    @classmethod
    def unusable(cls, name: str, problem: str) -> Clip:
        """What a malformed row stands for.

        Args:
            name: unique, such as "train.tsv line 7".
            problem: what follows "which", such as "has 3 columns, not 4".
        """
        return cls("", "", segment=Segment(name, 0.0, None), problem=problem)

    @property
    def name(self) -> str:
        """What the utterance is called: unique, and the path of its audio if that is written."""
        return self.segment.name if self.segment else os.path.splitext(self.source)[0]


class Labels(Protocol):
    """How transcripts become labels; its `repr` has all that matters. See `labels`."""

    units: bool

    def label(self, transcripts: Sequence[str]) -> tuple[list[str], Counter[str]]:
        """Texts for `manifest.Utterance`, and how often which character or tag was dropped.

        Tags are longer than a character.
        """


@dataclass(frozen=True)
class ReadyUnits:
    """Transcripts that are labels already: units parted by spaces."""

    units: bool = True

    def label(self, transcripts: Sequence[str]) -> tuple[list[str], Counter[str]]:
        """The transcripts, with single spaces."""
        return [" ".join(transcript.split()) for transcript in transcripts], Counter()


@dataclass(frozen=True)
class Corpus:
    """What a reader found.

    Attributes:
        name: of the corpus, such as "LibriSpeech".
        language: ISO code.
        root: the folder that sources start from.
        splits: clips by split, in any order.
        labels: how transcripts become labels.
        version: of the release, where it is known.
        options: what was asked of the reader, for the provenance.
        unread: (table, row, what follows "which") of rows that are malformed, so that nobody knows
            whether they would be in a split; they are listed, but did not fail.
        shared_speakers: whether it means to test on the speakers that it trains on.
    """

    name: str
    language: str
    root: Path
    splits: Mapping[str, Sequence[Clip]]
    labels: Labels
    version: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    unread: Sequence[tuple[str, str, str]] = ()
    shared_speakers: bool = False

    def __post_init__(self) -> None:
        if not any(self.splits.values()):
            raise UserError(f"{self.root} holds no utterance of {self.name}")
        for split, clips in self.splits.items():
            if not clips:
                raise UserError(f"{self.name} in {self.root}: split {split} has no utterance")
        self._check_names()

    def digest(self) -> str:
        """SHA-256 of what the clips are cut from and say, in hexadecimal."""
        checksum = hashlib.sha256()
        for split, clips in self.splits.items():
            for clip in clips:
                said = (split, clip.source, clip.transcript, clip.segment)
                checksum.update(repr(said).encode(errors="backslashreplace"))
        return checksum.hexdigest()

    def _check_names(self) -> None:
        origins: dict[str, Any] = {}
        for split, clips in self.splits.items():
            seen: set[str] = set()
            is_nested = split.startswith("train")
            for clip in clips:
                name = clip.name
                origin = (clip.source, clip.segment) if clip.segment else clip.source
                # Sets to train on may contain one another, as Libri-light's do.
                known = origins.setdefault(name, origin if is_nested else None)
                if name in seen or known != (origin if is_nested else None):
                    raise UserError(f"{self.name} in {self.root}: two clips are called {name!r}")
                if name.startswith("/") or ".." in name.split("/"):
                    raise UserError(f"{self.root}: {name!r} would lie outside of the new folder")
                refuse_unfit(clip.source, "file")
                refuse_unfit(name, "utterance")
                seen.add(name)


def refuse_unfit(path: str, what: str) -> None:
    """Raise UserError for a path that the lines of a manifest cannot hold."""
    if not path.isprintable() and any(separator in path for separator in "\t\n\r"):
        raise UserError(f"the {what} {path!r} has a tab or line feed in its name; rename it")
    if path != path.strip():
        raise UserError(f"the {what} {path!r} begins or ends with a blank; rename it")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"the name of the {what} {path!r} is not UTF-8; rename it") from None
