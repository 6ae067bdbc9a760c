"""Recordings in one folder per class, perhaps below one folder per split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

from speechprune.errors import UserError
from speechprune.manifests.audio import AUDIO_ENDINGS
from speechprune.manifests.corpora.base import (
    CORPORA,
    SHARES,
    CorpusReader,
    by_option,
    refuse_to_draw,
    seed_option,
    shares_option,
)
from speechprune.manifests.corpus import Clip, Corpus
from speechprune.manifests.drawn_splits import By, draw_splits
from speechprune.manifests.labelled_corpus import labelled_clip, labelled_corpus
from speechprune.manifests.partition import check_shares, parse_shares
from speechprune.manifests.rows import check_split_name
from speechprune.registry import option

_TRAIN = "train"


@CORPORA.register("folders")
@dataclass(frozen=True)
class Folders(CorpusReader):
    """Recordings and their classes: a folder for each class, alone or in a folder for each split.

    Recordings may lie deeper than the folder of their class. If FOLDER has a folder train that
    holds folders, its folders are splits; otherwise they are classes, and splits are drawn.
    """

    slot: str = option("Name of what the folders tell apart, such as keyword.", "class")
    layout: Literal["auto", "splits", "classes"] = option(
        "What the folders in FOLDER are; auto goes by the folder train.", "auto"
    )
    shares: Optional[str] = shares_option()
    speakers: str = option(
        "Regular expression whose first group is the speaker, searched for in the path of a "
        "recording below FOLDER.",
        "",
        metavar="REGEX",
    )
    by: Optional[By] = by_option()
    seed: int = seed_option()
    language: str = option("ISO code of the language, if there is one.", "")

    def read(self, folder: Path) -> Corpus:
        """The recordings of each class, drawn into splits where they are not in such.

        Raises:
            UserError: there are no folders, one of a class holds no recording, no speaker is found
                where one is expected, or as `draw_splits` and `labelled_corpus`.
        """
        root = folder.absolute()
        pattern = _compiled(self.speakers)
        if not root.is_dir():
            raise UserError(f"{root} does not exist, or is a file; name a folder of classes")
        if not _folders(root):
            raise UserError(f"{root} holds no folder of a class")
        is_split = self._holds_splits(root)
        by = self.by or ("speaker" if pattern and not is_split else "utterance")
        asked = self.shares or SHARES
        if is_split:
            refuse_to_draw(self.shares, self.by, f"the folders in {root} are splits")
            splits = {each.name: _classes(root, each, pattern) for each in _folders(root)}
            for name in splits:
                check_split_name(name)
        else:
            shares = parse_shares("--shares", asked)
            check_shares("--shares", shares)
            splits = draw_splits(_classes(root, root, pattern), shares, by, self.seed)
        options: dict[str, Any] = {"slot": self.slot, "speakers": self.speakers}
        if not is_split:
            options.update(shares=asked, by=by, seed=self.seed)
        return labelled_corpus(
            "folders",
            self.language,
            root,
            splits,
            [self.slot],
            options=options,
            shared_speakers=not is_split and by == "utterance",
        )

    def _holds_splits(self, root: Path) -> bool:
        if self.layout != "auto":
            return self.layout == "splits"
        return (root / _TRAIN).is_dir() and bool(_folders(root / _TRAIN))


def _compiled(pattern: str) -> Optional[re.Pattern[str]]:
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--speakers {pattern!r} is not a regular expression: {error}") from None
    if compiled.groups < 1:
        raise UserError(f"--speakers {pattern!r} has no group: put the speaker in parentheses")
    return compiled


def _folders(root: Path) -> list[Path]:
    return sorted(each for each in root.iterdir() if each.is_dir() and each.name[0] != ".")


def _classes(root: Path, folder: Path, pattern: Optional[re.Pattern[str]]) -> list[Clip]:
    """The recordings of all classes whose folders are in `folder`."""
    if not _folders(folder):
        raise UserError(f"{folder} holds no folder of a class")
    clips = []
    for each in _folders(folder):
        found = [
            labelled_clip(path, [each.name], _speaker(path, root, pattern))
            for path in recordings_in(each, root)
        ]
        if not found:
            raise UserError(f"class {each.name!r} is empty: no recording in {each}")
        clips += found
    return clips


def _speaker(path: str, root: Path, pattern: Optional[re.Pattern[str]]) -> str:
    if pattern is None:
        return ""
    found = pattern.search(path)
    if found is None or not found[1]:
        raise UserError(f"--speakers {pattern.pattern!r} finds no speaker in {root}: {path}")
    return found[1]


def recordings_in(folder: Path, root: Path) -> Iterator[str]:
    """Paths below `root` of all recordings in `folder` and below it, sorted; hidden ones are
    passed over, and links to folders are followed once."""
    seen = {os.path.realpath(folder)}
    for inside, folders, names in os.walk(folder, followlinks=True):
        new = []
        for name in sorted(folders):
            place = os.path.realpath(os.path.join(inside, name))
            if not name.startswith(".") and place not in seen:
                seen.add(place)
                new.append(name)
        folders[:] = new
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_ENDINGS:
                yield Path(inside, name).relative_to(root).as_posix()
