"""LJ Speech (Ito, 2017): `metadata.csv`, with `NAME|TEXT|TEXT READ ALOUD` a line, and `wavs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.corpora.base import CORPORA, CorpusReader, labels_option
from speechprune.manifests.corpus import Clip, Corpus
from speechprune.manifests.labels import LabelKind, make_labels
from speechprune.manifests.lines import read_lines
from speechprune.registry import option


@CORPORA.register("lj_speech")
@dataclass(frozen=True)
class LJSpeech(CorpusReader):
    """LJ Speech (LJSpeech-1.1): English, one speaker, one split."""

    split: str = option("Name of the split.", "train")
    labels: LabelKind = labels_option()

    def read(self, folder: Path) -> Corpus:
        table = folder / "metadata.csv"
        clips = []
        for number, line in enumerate(read_lines(table), start=1):
            name, *texts = line.split("|")
            if len(texts) != 2:
                raise UserError(f"{table} line {number}: expected three columns, got {line!r}")
            clips.append(Clip(f"wavs/{name}.wav", texts[1], speaker="LJ"))
        labels = make_labels(self.labels, "en")
        return Corpus("LJ Speech", "en", folder, {self.split: clips}, labels)
