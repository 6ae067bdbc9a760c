"""Google's Speech Commands (Warden, 2018), as SUPERB uses version 0.01: twelve keywords.

A folder for each word, `_background_noise_`, and the lists `validation_list.txt` and
`testing_list.txt`; the official test set comes as a folder of its own, with `_unknown_` and
`_silence_`.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Literal, Mapping, Optional

from speechprune.errors import UserError
from speechprune.manifests.corpora.base import CORPORA, CorpusReader
from speechprune.manifests.corpora.folders import recordings_in
from speechprune.manifests.corpus import Clip, Corpus, Segment
from speechprune.manifests.labelled_corpus import labelled_clip, labelled_corpus
from speechprune.manifests.lines import read_lines
from speechprune.manifests.recording import BadAudio, open_recording
from speechprune.registry import option

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SILENCE, UNKNOWN = "_silence_", "_unknown_"

_NOISE = "_background_noise_"
_LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
_SPEAKER = re.compile(r"(?:.*/)?([0-9a-f]+)_nohash_\d+\.wav")
#: Shares, in time, of each recording of noise; nothing of it is in two splits.
_SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
#: Milliseconds that a piece of noise lasts, and those from the start of one to the next.
_PIECE, _STEP = 1000, 500


@CORPORA.register("speech_commands")
@dataclass(frozen=True)
class SpeechCommands(CorpusReader):
    """Google's Speech Commands: twelve keywords as in SUPERB, or all words.

    Silence is cut out of the recordings of noise: pieces of a second, every half second, from the
    first 80 % of each for training, the next 10 % for validation and the rest for the test.
    """

    words: Literal["commands", "all"] = option(
        "Words that are classes: the ten commands, beside _unknown_ and _silence_, or all.",
        "commands",
    )
    test_set: Optional[Path] = option(
        "Folder of the official test set, speech_commands_test_set_v0.01; by default, the test "
        "split is that of testing_list.txt.",
        None,
    )

    def read(self, folder: Path) -> Corpus:
        """The splits by the published lists, with the official test set where it is given.

        Raises:
            UserError: a list or a word is missing, a recording is listed twice, there is no noise
                to cut, or as `labelled_corpus`.
        """
        root = folder.absolute()
        if self.words == "all" and self.test_set is not None:
            raise UserError(f"{self.test_set} has the twelve classes; leave out --words all")
        words = _words(root, self.words == "commands")
        splits = {
            name: [self._clip(path) for path in paths]
            for name, paths in _listed(root, words).items()
        }
        if self.words == "commands":
            for name, clips in _silence(root).items():
                splits[name] += clips
        if self.test_set is None:
            return self._corpus(root, splits)
        test = self.test_set.absolute()
        common = Path(os.path.commonpath([root, test]))
        splits["test"] = [self._clip(path) for path in _official(test)]
        below = {
            name: [_below(common, test if name == "test" else root, clip) for clip in clips]
            for name, clips in splits.items()
        }
        return self._corpus(common, below)

    def _corpus(self, root: Path, splits: Mapping[str, list[Clip]]) -> Corpus:
        official = None if self.test_set is None else self.test_set.absolute().name
        options = {"words": self.words, "test_set": official}
        return labelled_corpus("Speech Commands", "en", root, splits, ["keyword"], options=options)

    def _clip(self, path: str) -> Clip:
        """A recording, whose word is the folder that it lies in."""
        word = path.split("/")[-2]
        known = self.words == "all" or word in (*COMMANDS, SILENCE)
        named = _SPEAKER.fullmatch(path)
        return labelled_clip(path, [word if known else UNKNOWN], named[1] if named else "")


def _words(root: Path, commands: bool) -> list[str]:
    """The folders of words, sorted."""
    for name in _LISTS.values():
        if not (root / name).is_file():
            raise UserError(
                f"{root} is not Speech Commands: it has no {name}, which says what is not for "
                "training; name the folder of the extracted archive"
            )
    words = sorted(
        each.name for each in root.iterdir() if each.is_dir() and each.name[0] not in "._"
    )
    missing = [word for word in COMMANDS if word not in words] if commands else []
    if missing or not words:
        raise UserError(f"{root} has no folder of the word {(missing or ['yes'])[0]!r}")
    return words


def _listed(root: Path, words: list[str]) -> dict[str, list[str]]:
    """The recordings of each split, sorted; those of the lists may be missing."""
    listed: dict[str, str] = {}
    for split, name in _LISTS.items():
        for number, line in enumerate(read_lines(root / name), start=1):
            path = line.strip()
            if path and (path in listed or path.count("/") != 1):
                reason = "is listed before" if path in listed else "is not WORD/FILE"
                raise UserError(f"{root / name} line {number}: {path!r} {reason}")
            if path:
                listed[path] = split
    splits: dict[str, list[str]] = {"train": []}
    for word in words:
        found = list(recordings_in(root / word, root))
        if not found:
            raise UserError(f"class {word!r} is empty: no recording in {root / word}")
        splits["train"] += [path for path in found if path not in listed]
    for name in _LISTS:
        splits[name] = sorted(path for path, split in listed.items() if split == name)
    return splits


def _silence(root: Path) -> dict[str, list[Clip]]:
    """Pieces of the recordings of noise, by split."""
    splits: dict[str, list[Clip]] = {name: [] for name in _SHARES}
    paths = list(recordings_in(root / _NOISE, root))
    for path in paths:
        try:
            with open_recording(root / path) as file:
                seconds = file.frames / file.samplerate
        except BadAudio as error:
            raise UserError(f"{root / path} {error}") from error
        end = 0.0
        for name, share in _SHARES.items():
            start, end = end, end + share * seconds
            splits[name] += _pieces(path, start, end)
    if not splits["train"]:
        raise UserError(
            f"class {SILENCE!r} is empty: no recording of more than a second in {root / _NOISE}"
        )
    return splits


def _pieces(path: str, start: float, end: float) -> Iterator[Clip]:
    """Pieces that lie between two times, in seconds."""
    # In whole milliseconds, so that no rounding moves a piece into the next split.
    for begin in range(math.ceil(1000 * start), math.floor(1000 * end) - _PIECE + 1, _STEP):
        segment = Segment(
            f"{SILENCE}/{Path(path).stem}_{begin:07d}", begin / 1000, (begin + _PIECE) / 1000
        )
        yield labelled_clip(path, [SILENCE], segment=segment)


def _official(test: Path) -> list[str]:
    """The recordings of the official test set, in a folder for each class."""
    if not test.is_dir():
        raise UserError(f"no folder {test}; name the extracted speech_commands_test_set_v0.01")
    found = []
    for word in (*COMMANDS, UNKNOWN, SILENCE):
        paths = list(recordings_in(test / word, test))
        if not paths:
            raise UserError(f"class {word!r} is empty: no recording in {test / word}")
        found += paths
    return found


def _below(common: Path, root: Path, clip: Clip) -> Clip:
    return clip._replace(source=(root / clip.source).relative_to(common).as_posix())
