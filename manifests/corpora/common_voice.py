"""Common Voice (Ardila et al., 2020): a release's folder of one language, `.tsv` and `clips`.

Columns are found by their names: releases differ in their order and number.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional

from speechprune.errors import UserError
from speechprune.manifests.corpora.base import CORPORA, CorpusReader, labels_option
from speechprune.manifests.corpus import Clip, Corpus, Labels, ReadyUnits
from speechprune.manifests.labels import LabelKind, make_labels
from speechprune.manifests.lines import open_text
from speechprune.manifests.published_lists import (
    PHONES,
    clip_name,
    language_folder,
    read_lists,
    read_phones,
)
from speechprune.manifests.speaker_draw import Durations, draw_hours
from speechprune.registry import option

OFFICIAL = ("train", "dev", "test")
CLIPS = "clips"

_COLUMNS = ("client_id", "path", "sentence")
#: Share of the training hours that is drawn for each of dev and test where a release has neither.
_HELD_OUT = 0.1


class Row(NamedTuple):
    """What is needed of a line: who said which `sentence` in which `clip`, a file's name.

    Attributes:
        place: table and line.
        problem: why the line cannot be trusted, or "".
    """

    clip: str
    sentence: str
    speaker: str
    place: str
    problem: str = ""


@CORPORA.register("common_voice")
@dataclass(frozen=True)
class CommonVoice(CorpusReader):
    """A language folder of Common Voice, of any release."""

    language: str = option("ISO code of the language; the folder's name by default.", "")
    train_hours: Optional[float] = option(
        "Hours to draw for training from the validated clips, by speakers of their own.",
        None,
        above=0,
    )
    splits: Optional[Path] = option(
        "Folder of published lists (the ten-language hour); their phones with --labels phones.",
        None,
    )
    seed: int = option("Seed of the draw.", 1, least=0, most=2**32 - 1)
    labels: LabelKind = labels_option()

    def read(self, folder: Path) -> Corpus:
        """A language folder's clips: the official splits, published lists, or drawn hours.

        Hours are drawn from speakers who are not in dev or test. Where a release has no dev or
        test (a delta, or a small language), that is a tenth of these hours, by other speakers
        still.

        Raises:
            UserError: `folder` is not a language folder, a `.tsv` lacks a column, a listed clip is
                missing or unknown, or there is less validated speech than asked.
        """
        root = folder.absolute()
        language = self.language or root.name
        phones = self.splits is not None and self.labels == "phones"
        labels: Labels = ReadyUnits() if phones else make_labels(self.labels, language)
        if not (root / CLIPS).is_dir():
            raise UserError(
                f"{root} is not a language folder of Common Voice: looked for {CLIPS} and .tsv "
                "files"
            )
        if self.splits is not None and self.train_hours is not None:
            raise UserError("--splits lists the training clips already; leave out --train-hours")
        unread: list[tuple[str, str, str]] = []
        if self.splits is not None:
            clips = _published(root, language_folder(self.splits, language), phones=phones)
        elif self.train_hours is not None:
            clips, unread = _drawn(root, self.train_hours, self.seed)
        else:
            clips = _official(root)
        _refuse_missing(root, clips)
        version = root.parent.name
        return Corpus("Common Voice", language, root, clips, labels, version, self._asked, unread)

    @property
    def _asked(self) -> dict[str, Any]:
        """What the provenance keeps of the options; a seed only where something was drawn."""
        return {
            "train_hours": self.train_hours,
            "seed": None if self.train_hours is None else self.seed,
            "splits": None if self.splits is None else self.splits.name,
        }


def _published(root: Path, folder: Path, *, phones: bool) -> dict[str, list[Clip]]:
    """The clips of published lists, with the phones published for them or their sentences."""
    lists = read_lists(folder)
    listed = {name for names in lists.values() for name in names}
    transcripts, speakers = (read_phones(folder) if phones else {}), {}
    malformed: dict[str, Clip] = {}
    for row in _rows(root / "validated.tsv"):
        if row.clip in listed:
            speakers[row.clip] = row.speaker
            if row.problem:
                malformed[row.clip] = _clip(row)
            elif not phones:
                transcripts[row.clip] = row.sentence
    for split, names in lists.items():
        unknown = [name for name in names if name not in transcripts and name not in malformed]
        if unknown:
            where = folder / PHONES if phones else root / "validated.tsv"
            raise UserError(
                f"{folder}: {len(unknown)} clips listed for {split} are not in {where}; the first "
                f"is {unknown[0]}"
            )
    return {
        split: [
            Clip(f"{CLIPS}/{name}", transcripts[name], speakers.get(name, ""))
            if name in transcripts
            else malformed[name]
            for name in names
        ]
        for split, names in lists.items()
    }


def _official(root: Path) -> dict[str, list[Clip]]:
    missing = [name for name in OFFICIAL if not (root / f"{name}.tsv").exists()]
    if missing:
        raise UserError(
            f"{root} has no {missing[0]}.tsv; delta releases have no splits: draw them with "
            "--train-hours"
        )
    splits = {name: list(map(_clip, _rows(root / f"{name}.tsv"))) for name in OFFICIAL}
    for name, clips in splits.items():
        if not clips:
            raise UserError(f"{root / name}.tsv lists no clip; draw splits with --train-hours")
    return splits


def _drawn(
    root: Path, hours: float, seed: int
) -> tuple[dict[str, list[Clip]], list[tuple[str, str, str]]]:
    """The splits, and the malformed rows of what they are drawn from, as `Corpus.unread`."""
    if not 0 < hours < math.inf:
        raise UserError(f"--train-hours {hours:g} is not a length of speech")
    official = {
        name: list(_rows(root / f"{name}.tsv"))
        for name in ("dev", "test")
        if (root / f"{name}.tsv").exists()
    }
    held_out = {name: rows for name, rows in official.items() if rows}
    taken = {row.speaker for rows in held_out.values() for row in rows if not row.problem}
    validated = list(_rows(root / "validated.tsv"))
    rows = [row for row in validated if not row.problem and row.speaker not in taken]
    missing = [name for name in ("dev", "test") if name not in held_out]
    wanted = {"train": hours, **{name: _HELD_OUT * hours for name in missing}}
    drawn = draw_hours(rows, wanted, Durations(root), seed)
    splits = {name: list(map(_clip, split)) for name, split in {**drawn, **held_out}.items()}
    return splits, [("validated", row.place, row.problem) for row in validated if row.problem]


def _rows(path: Path) -> Iterator[Row]:
    """The lines of a `.tsv`; quotes mean nothing in these files."""
    with open_text(path, "\n", "name a language folder of Common Voice") as file:
        header = file.readline().rstrip("\r\n").split("\t")
        for column in _COLUMNS:
            if column not in header:
                raise UserError(
                    f"{path} has no column {column!r}; its first line has {', '.join(header)}"
                )
        client, clip, sentence = map(header.index, _COLUMNS)
        speakers: dict[str, str] = {}  # an identity of 128 letters, kept once
        for number, line in enumerate(file, start=2):
            fields = line.rstrip("\r\n").split("\t")
            place = f"{path.name} line {number}"
            if not line.strip():
                continue
            if len(fields) != len(header):
                problem = f"has {len(fields)} columns, not {len(header)}"
                name = clip_name(fields[clip]) if clip < len(fields) else ""
                yield Row(name, "", "", place, problem)
            elif not fields[clip].strip():
                yield Row("", "", "", place, "names no clip")
            else:
                speaker = speakers.setdefault(fields[client], fields[client])
                yield Row(clip_name(fields[clip]), fields[sentence], speaker, place)


def _clip(row: Row) -> Clip:
    if row.problem:
        return Clip.unusable(row.place, row.problem)
    return Clip(f"{CLIPS}/{row.clip}", row.sentence, row.speaker)


def _refuse_missing(root: Path, splits: dict[str, list[Clip]]) -> None:
    there = {entry.name for entry in os.scandir(root / CLIPS)}
    for name, clips in splits.items():
        sources = (clip.source for clip in clips if not clip.problem)
        missing = [source for source in sources if source[len(CLIPS) + 1 :] not in there]
        if missing:
            raise UserError(
                f"{root}: {len(missing)} clips of {name} have no audio; the first is {missing[0]}"
            )
