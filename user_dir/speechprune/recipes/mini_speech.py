"""What the mini model hears: synthetic speech in twelve languages, and real digits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.files import make_folder
from speechprune.made_with import claim
from speechprune.manifests.digit_recordings import read_recordings, recordings_digest
from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.manifests.pooling import pool
from speechprune.manifests.progress import Progress, unwatched
from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic
from speechprune.manifests.vocabulary import LANGUAGES as WITH_WORDS

SPLITS = ("train", "valid")

#: The six of which there are words, and six that count.
LANGUAGES = (*WITH_WORDS, "fr", "nl", "ru", "sv", "tr", "zh")
#: A number takes longer than a word: sentences of all languages are about as long.
_WORDS, _NUMBERS = (5, 10), (3, 7)
#: Of an utterance, on average over the languages.
_SECONDS = 2.9
_VALID = 10  # utterances of each language

DIGITS = DigitStrings(sizes={"train": 2000, "valid": 60}, digits=(3, 8), seed=301)
"""Nearly two hours, of recordings that are for training or validation in all digit corpora."""


@dataclass(frozen=True)
class MiniSpeech:
    """Settings of the speech.

    Attributes:
        hours: of synthetic speech, about.
        digits: archive or folder of real spoken digits to hear too; None for none.
        without: speakers of digits who are not heard.
    """

    hours: float
    digits: Path | None = None
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.without and self.digits is None:
            raise UserError("speakers are left out of real digits only; name their archive too")

    def describe(self) -> dict[str, Any]:
        """What the speech depends on, for JSON; raises UserError if the digits are missing."""
        return {
            "hours": self.hours,
            "digits": None if self.digits is None else recordings_digest(self.digits),
            "without": sorted(self.without),
        }


def make_mini_speech(
    folder: Path,
    settings: MiniSpeech,
    *,
    workers: int | None = 1,
    progress: Progress = unwatched,
) -> Path:
    """Make the corpus in `folder`, or what is left to make of it.

    Each language is a folder of its own, which is there whole or not at all.

    Returns:
        The manifest folder of all recordings, without labels.

    Raises:
        UserError: `folder` was made with other settings, a speaker to leave out is unknown, or as
            `digit_recordings.read_recordings` and `pooling.pool`.
    """
    _refuse_unknown_speakers(settings)
    claim(make_folder(folder), settings.describe())
    sources: dict[Path, Collection[str]] = {folder / language: () for language in LANGUAGES}
    for language, (source, _) in zip(LANGUAGES, list(sources.items())):
        spoken = _synthetic(language, settings.hours)
        make_synthetic(source, spoken, workers=workers, resume=True, progress=progress)
    if settings.digits is not None:
        sources[folder / "digits"] = settings.without
        make_digits(folder / "digits", settings.digits, DIGITS, resume=True, progress=progress)
    pooled = folder / "all"
    if not pooled.exists():
        pool(pooled, sources, SPLITS)
    return pooled


def _synthetic(language: str, hours: float) -> SyntheticSpeech:
    has_words = language in WITH_WORDS
    utterances = round(hours * 3600 / len(LANGUAGES) / _SECONDS)
    return SyntheticSpeech(
        languages=(language,),
        sizes={"train": max(1, utterances), "valid": _VALID},
        vocabulary=None,
        sentence=_WORDS if has_words else _NUMBERS,
        rate=(130, 240),
        pitch=(15, 85),
        noise=(-45.0, -10.0),
        labels="characters" if has_words else "phones",
        seed=201 + LANGUAGES.index(language),
    )


def _refuse_unknown_speakers(settings: MiniSpeech) -> None:
    if settings.digits is None or not settings.without:
        return
    known = sorted({recording.speaker for recording in read_recordings(settings.digits)[0]})
    if strange := sorted(set(settings.without) - set(known)):
        raise UserError(
            f"nobody is called {strange[0]!r} in {settings.digits}; its speakers are "
            f"{', '.join(known)}"
        )
