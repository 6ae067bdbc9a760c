"""Spoken digits, of recordings from the Free Spoken Digit Dataset: strings, or single ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Sequence

from speechprune.manifests.classes import read_labelled_split
from speechprune.manifests.corpora.base import (
    CORPORA,
    MOST_UTTERANCES,
    CorpusMaker,
    seed_option,
)
from speechprune.manifests.forms import AnySplit
from speechprune.manifests.manifest import read_split
from speechprune.manifests.progress import Progress, unwatched
from speechprune.registry import option


def _size_option(split: str, strings: int) -> Any:
    """The size of a split, an `Optional[int]`."""
    return option(
        f"Utterances in the {split} split; by default {strings:,} strings, or every recording.",
        None,
        least=1,
        most=MOST_UTTERANCES,
    )


@CORPORA.register("digits")
@dataclass(frozen=True)
class Digits(CorpusMaker):
    """Real spoken digits of the Free Spoken Digit Dataset: strings, or single ones with classes.

    Strings are cut together, to be recognized. With --task keyword, speaker or intent, single
    recordings have classes: the digit, the speaker, or both. No task trains on a recording that
    another validates or tests.
    """

    archive: Path = option("Tar or zip archive, or folder, of DIGIT_SPEAKER_INDEX.wav or .flac.")
    task: Literal["recognition", "keyword", "speaker", "intent"] = option(
        "Task that the folder is for: recognition of strings, or classes.", "recognition"
    )
    train: Optional[int] = _size_option("train", 1000)
    valid: Optional[int] = _size_option("valid", 60)
    test: Optional[int] = _size_option("test", 200)
    seed: int = seed_option()

    def make(
        self,
        folder: Path,
        *,
        dictionary: Optional[Path] = None,
        overwrite: bool = False,
        resume: bool = False,
        progress: Progress = unwatched,
    ) -> Sequence[AnySplit]:
        from speechprune.manifests.digits import DigitStrings, make_digits
        from speechprune.manifests.single_digits import SingleDigits, make_single_digits

        asked = {"train": self.train, "valid": self.valid, "test": self.test}
        how = {
            "dictionary": dictionary,
            "overwrite": overwrite,
            "resume": resume,
            "progress": progress,
        }
        if self.task == "recognition":
            sizes = {**DigitStrings().sizes, **{k: n for k, n in asked.items() if n is not None}}
            make_digits(folder, self.archive, DigitStrings(sizes=sizes, seed=self.seed), **how)
            return [read_split(folder, name) for name in asked]
        settings = SingleDigits(self.task, asked, self.seed)
        make_single_digits(folder, self.archive, settings, **how)
        return [read_labelled_split(folder, name) for name in asked]
