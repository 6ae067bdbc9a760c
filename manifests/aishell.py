"""AISHELL-1 (Bu et al., 2017), as it is extracted: `wav/SPLIT/SPEAKER/*.wav` and one transcript."""

from __future__ import annotations

from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.corpus import Clip, Corpus, Labels
from speechprune.manifests.transcripts import read_transcripts

_SPLITS = ("train", "dev", "test")


def read_aishell(root: Path, labels: Labels) -> Corpus:
    """The three splits of `data_aishell`, or of the folder that holds it.

    The published transcript lacks some 400 of the recordings; those are passed over, as in every
    recipe, and counted in the options.

    Raises:
        UserError: the transcript or the extracted recordings of a split are missing, or no
            recording of a split has a transcript.
    """
    root = root.absolute()
    root = root / "data_aishell" if (root / "data_aishell").is_dir() else root
    found = sorted(root.glob("transcript/aishell_transcript*.txt"))
    if not found or not (root / "wav").is_dir():
        raise UserError(
            f"{root} is not AISHELL-1: looked for transcript/aishell_transcript_v0.8.txt and wav"
        )
    transcripts = {name: text for _, name, text in read_transcripts(found[0])}
    splits, silent = {}, 0
    for split in _SPLITS:
        recordings = sorted((root / "wav" / split).glob("*/*.wav"))
        if not recordings:
            raise UserError(
                f"{root}/wav/{split} holds no recording; extract the archives in wav first"
            )
        splits[split] = [
            Clip(path.relative_to(root).as_posix(), transcripts[path.stem], path.parent.name)
            for path in recordings
            if path.stem in transcripts
        ]
        silent += len(recordings) - len(splits[split])
    heard = {Path(clip.source).stem for clips in splits.values() for clip in clips}
    lost = [name for name in transcripts if name not in heard]
    if lost:
        raise UserError(
            f"{len(lost)} transcripts of {found[0]} have no recording in {root / 'wav'}, the first "
            f"is {lost[0]}; extract all archives there"
        )
    options = {"recordings_without_transcript": silent}
    return Corpus("AISHELL-1", "zh", root, splits, labels, options=options)
