"""AISHELL-1 (Bu et al., 2017), as it is extracted: `wav/SPLIT/SPEAKER/*.wav` and one transcript."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.corpora.base import CORPORA, CorpusReader
from speechprune.manifests.corpus import Clip, Corpus
from speechprune.manifests.labels import characters
from speechprune.manifests.transcripts import read_transcripts

_SPLITS = ("train", "dev", "test")


@CORPORA.register("aishell")
@dataclass(frozen=True)
class Aishell(CorpusReader):
    """AISHELL-1 (data_aishell), by character."""

    def read(self, folder: Path) -> Corpus:
        """The three splits of `data_aishell`, or of the folder that holds it.

        The published transcript lacks some 400 of the recordings; those are left out, as they are
        everywhere, and counted in the options.

        Raises:
            UserError: the transcript or the extracted recordings of a split are missing, or no
                recording of a split has a transcript.
        """
        root = folder.absolute()
        root = root / "data_aishell" if (root / "data_aishell").is_dir() else root
        found = sorted(root.glob("transcript/aishell_transcript*.txt"))
        if not found or not (root / "wav").is_dir():
            raise UserError(
                f"{root} is not AISHELL-1: looked for transcript/aishell_transcript_v0.8.txt "
                "and wav"
            )
        transcripts = {name: text for _, name, text in read_transcripts(found[0])}
        splits, without_transcript = {}, 0
        for split in _SPLITS:
            recordings = _recordings(root, split)
            splits[split] = [
                Clip(path.relative_to(root).as_posix(), transcripts[path.stem], path.parent.name)
                for path in recordings
                if path.stem in transcripts
            ]
            without_transcript += len(recordings) - len(splits[split])
        heard = {Path(clip.source).stem for clips in splits.values() for clip in clips}
        lost = [name for name in transcripts if name not in heard]
        if lost:
            raise UserError(
                f"{len(lost)} transcripts of {found[0]} have no recording in {root / 'wav'}, the "
                f"first is {lost[0]}; extract all archives there"
            )
        options = {"recordings_without_transcript": without_transcript}
        return Corpus("AISHELL-1", "zh", root, splits, characters("zh"), options=options)


def _recordings(root: Path, split: str) -> list[Path]:
    found = sorted((root / "wav" / split).glob("*/*.wav"))
    if not found:
        raise UserError(f"{root}/wav/{split} holds no recording; extract the archives in wav first")
    return found
