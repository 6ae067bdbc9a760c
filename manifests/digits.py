"""Strings of spoken digits, cut together from real recordings of single ones."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping

import numpy as np
import soxr

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE, write_flac
from speechprune.manifests.dictionary import symbols_digest
from speechprune.manifests.digit_recordings import (
    Recording,
    finished_of,
    read_recordings,
    recordings_digest,
)
from speechprune.manifests.folders import replacing
from speechprune.manifests.making import SPLITS, check_seed, check_sizes
from speechprune.manifests.manifest import AUDIO, Split, Utterance, write_manifest
from speechprune.manifests.progress import Progress, unwatched
from speechprune.manifests.provenance import ARCHIVE_DIGEST, SHARED_SPEAKERS

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


@dataclass(frozen=True)
class DigitStrings:
    """Settings of a corpus of digit strings.

    Attributes:
        sizes: utterances per split; a recording serves one split only.
        digits: fewest and most digits per utterance, all by one speaker.
        silence: shortest and longest pause between two digits, in seconds.
        seed: which digits, speakers, recordings and pauses.
    """

    sizes: Mapping[str, int] = field(
        default_factory=lambda: {"train": 1000, "valid": 60, "test": 200}
    )
    digits: tuple[int, int] = (1, 5)
    silence: tuple[float, float] = (0.05, 0.25)
    seed: int = 1

    def __post_init__(self) -> None:
        check_sizes(self.sizes)
        check_seed(self.seed)
        if not 1 <= self.digits[0] <= self.digits[1]:
            raise UserError(f"digits per utterance {self.digits} are not a range from 1 upwards")


def make_digits(
    folder: Path,
    archive: Path,
    settings: DigitStrings,
    *,
    dictionary: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = unwatched,
) -> None:
    """Cut digit strings together into the manifest folder `folder`, labelled by number words.

    `resume` leaves a finished folder of the same settings and recordings as it is. `progress` wraps
    the stream of finished utterances. Raises UserError as `read_recordings` and `folders.replacing`
    do, or if a split has no recording of a digit, or the recordings would be replaced.

    Args:
        archive: the recordings, an archive or a folder.
        dictionary: as in `preparation.prepare`.
    """
    provenance: dict[str, Any] = {
        "corpus": "Free Spoken Digit Dataset, strings",
        "language": "en",
        "archive": os.path.basename(os.path.abspath(archive)),
        "settings": asdict(settings),
        "dictionary": symbols_digest(dictionary),
    }
    if resume and finished_of(folder, provenance, archive):
        return
    keep_recordings(archive, folder)
    provenance[ARCHIVE_DIGEST] = recordings_digest(archive)
    recordings, rate = read_recordings(archive)
    takes = _takes(recordings)
    with replacing(folder, overwrite) as partial:
        stream = _strings(settings, takes, rate, partial / AUDIO)
        strings = list(progress(stream, sum(settings.sizes.values())))
        root = Path(os.path.realpath(folder)) / AUDIO
        splits = [
            Split(name, root, tuple(u for u in strings if u.path.startswith(f"{name}/")))
            for name in settings.sizes
        ]
        # By design: the data set tests on the speakers that it trains on.
        speakers = sorted({utterance.speaker for utterance in strings})
        provenance[SHARED_SPEAKERS] = speakers
        write_manifest(partial, splits, provenance, dictionary=dictionary)


def keep_recordings(archive: Path, folder: Path) -> None:
    """Raise UserError if the recordings lie in a folder that is to be replaced."""
    if folder.exists() and archive.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{archive} lies in {folder}; choose another folder for --out")


# Samples by split, speaker and digit.
_Takes = Mapping[str, Mapping[str, Mapping[int, list[np.ndarray]]]]


def _takes(recordings: list[Recording]) -> _Takes:
    takes: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for recording in recordings:
        takes[recording.split][recording.speaker][recording.digit].append(recording.samples)
    return takes


def _strings(settings: DigitStrings, takes: _Takes, rate: int, folder: Path) -> Iterator[Utterance]:
    for name, size in settings.sizes.items():
        speakers = sorted(takes[name])
        for speaker in speakers:
            if len(takes[name][speaker]) < len(WORDS):
                raise UserError(f"the archive lacks {name} recordings of a digit by {speaker}")
        if not speakers:
            raise UserError(f"the archive has no recordings for the {name} split")
        for index in range(size):
            random = np.random.default_rng((settings.seed, SPLITS.index(name), index))
            speaker = speakers[random.integers(len(speakers))]
            digits, samples = _one_string(settings, takes[name][speaker], rate, random)
            path = f"{name}/{index:06d}-{speaker}.flac"
            frames = write_flac(folder / path, soxr.resample(samples, rate, SAMPLE_RATE))
            yield Utterance(path, frames, " ".join(WORDS[digit] for digit in digits), speaker)


def _one_string(
    settings: DigitStrings,
    takes: Mapping[int, list[np.ndarray]],
    rate: int,
    random: np.random.Generator,
) -> tuple[list[int], np.ndarray]:
    """Digits and their samples (T,) at `rate`, with a pause before each and at the end."""
    count = random.integers(settings.digits[0], settings.digits[1], endpoint=True)
    digits = [int(digit) for digit in random.integers(len(WORDS), size=count)]
    pieces = []
    for digit in digits:
        pieces += [_pause(settings, rate, random), takes[digit][random.integers(len(takes[digit]))]]
    return digits, np.concatenate([*pieces, _pause(settings, rate, random)])


def _pause(settings: DigitStrings, rate: int, random: np.random.Generator) -> np.ndarray:
    return np.zeros(int(random.uniform(*settings.silence) * rate), dtype=np.float32)
