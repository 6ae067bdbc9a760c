"""Synthetic speech: what `speechprune prepare synthetic` asks for, of all that it could be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence, Tuple

from speechprune.manifests.corpora.base import (
    CORPORA,
    CorpusMaker,
    labels_option,
    seed_option,
    size_option,
    workers_option,
)
from speechprune.manifests.labels import LabelKind
from speechprune.manifests.lines import read_lines
from speechprune.manifests.manifest import Split, read_split
from speechprune.manifests.progress import Progress, unwatched
from speechprune.registry import option


@CORPORA.register("synthetic")
@dataclass(frozen=True)
class Synthetic(CorpusMaker):
    """Short sentences spoken by espeak-ng in many voices; the voices of the splits differ."""

    train: int = size_option("train", 900)
    valid: int = size_option("valid", 40)
    test: int = size_option("test", 80)
    seed: int = seed_option()
    languages: Tuple[str, ...] = option(
        "ISO code of a language to speak, repeatable.", ("en",), flag="--language"
    )
    vocabulary: int = option("Number of words per language.", 40, least=2, most=100_000)
    words: Optional[Path] = option(
        "A text file of words to use, for a language that has no list here.", None
    )
    labels: LabelKind = labels_option()
    workers: Optional[int] = workers_option()

    def make(
        self,
        folder: Path,
        *,
        dictionary: Optional[Path] = None,
        overwrite: bool = False,
        resume: bool = False,
        progress: Progress = unwatched,
    ) -> Sequence[Split]:
        from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic

        settings = SyntheticSpeech(
            languages=tuple(dict.fromkeys(self.languages)),
            sizes={"train": self.train, "valid": self.valid, "test": self.test},
            vocabulary=self.vocabulary,
            words=tuple(" ".join(read_lines(self.words)).split()) if self.words else (),
            labels=self.labels,
            seed=self.seed,
        )
        make_synthetic(
            folder,
            settings,
            workers=self.workers,
            dictionary=dictionary,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )
        return [read_split(folder, name) for name in settings.sizes]
