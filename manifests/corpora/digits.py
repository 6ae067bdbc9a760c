"""Strings of spoken digits, of recordings from the Free Spoken Digit Dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from speechprune.manifests.corpora.base import CORPORA, CorpusMaker, seed_option, size_option
from speechprune.manifests.manifest import Split, read_split
from speechprune.manifests.progress import Progress, unwatched
from speechprune.registry import option


@CORPORA.register("digits")
@dataclass(frozen=True)
class Digits(CorpusMaker):
    """Strings of real spoken digits, cut together from the Free Spoken Digit Dataset."""

    archive: Path = option("Tar or zip archive, or folder, of DIGIT_SPEAKER_INDEX.wav or .flac.")
    train: int = size_option("train", 1000)
    valid: int = size_option("valid", 60)
    test: int = size_option("test", 200)
    seed: int = seed_option()

    def make(
        self,
        folder: Path,
        *,
        dictionary: Optional[Path] = None,
        overwrite: bool = False,
        resume: bool = False,
        progress: Progress = unwatched,
    ) -> Sequence[Split]:
        from speechprune.manifests.digits import DigitStrings, make_digits

        sizes = {"train": self.train, "valid": self.valid, "test": self.test}
        settings = DigitStrings(sizes=sizes, seed=self.seed)
        make_digits(
            folder,
            self.archive,
            settings,
            dictionary=dictionary,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )
        return [read_split(folder, name) for name in sizes]
