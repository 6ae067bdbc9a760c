"""LibriSpeech (Panayotov et al., 2015) and Libri-light's small sets of it, as they are extracted.

LibriSpeech: `train-clean-100/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt` beside the FLAC files.
Libri-light's `librispeech_finetuning` (Kahn et al., 2020) nests the same folders deeper: `1h/0` to
`1h/5`, ten minutes each, and `9h`, each with `clean` and `other`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Sequence, Tuple

from speechprune.errors import UserError
from speechprune.manifests.corpora.base import CORPORA, CorpusReader, labels_option
from speechprune.manifests.corpus import Clip, Corpus
from speechprune.manifests.labels import LabelKind, make_labels
from speechprune.manifests.transcripts import read_transcripts
from speechprune.registry import option

#: Chapters of each of Libri-light's sets: ten minutes, one hour and ten hours.
LIBRI_LIGHT = {
    "train-10m": ("1h/0/*/*/*",),
    "train-1h": ("1h/*/*/*/*",),
    "train-10h": ("1h/*/*/*/*", "9h/*/*/*"),
}

_TRANSCRIPTS = "*.trans.txt"


@CORPORA.register("librispeech")
@dataclass(frozen=True)
class LibriSpeech(CorpusReader):
    """LibriSpeech's folders, or Libri-light's librispeech_finetuning (10 min, 1 h, 10 h)."""

    subsets: Tuple[str, ...] = option(
        "A split to read, such as dev-clean or train-1h, repeatable; all by default.",
        (),
        flag="--subset",
    )
    labels: LabelKind = labels_option()

    def read(self, folder: Path) -> Corpus:
        """The splits below `folder`, which holds LibriSpeech's or is `librispeech_finetuning`.

        Raises:
            UserError: it holds no such folder, a recording has no transcript, or the reverse.
        """
        labels = make_labels(self.labels, "en")
        root = folder.absolute()
        if not root.is_dir():
            raise UserError(f"no folder {root}; name the extracted LibriSpeech")
        known = _subsets(root)
        if not known:
            raise UserError(
                f"{root} is not LibriSpeech: looked for train-clean-100, dev-clean and their like "
                "(SPLIT/SPEAKER/CHAPTER/*.trans.txt), and for Libri-light's 1h and 9h"
            )
        for name in self.subsets:
            if name not in known:
                raise UserError(f"{root} has no split {name!r}; it has {', '.join(known)}")
        chosen = {name: known[name] for name in self.subsets or known}
        splits = {name: _read(root, patterns) for name, patterns in chosen.items()}
        return Corpus("LibriSpeech", "en", root, splits, labels, options={"subsets": list(chosen)})


def _subsets(root: Path) -> dict[str, tuple[str, ...]]:
    """Patterns of chapters by split; folders count by their layout, whatever they are called."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in sorted(path.name for path in root.iterdir() if path.is_dir()):
        if next(root.glob(f"{folder}/*/*/{_TRANSCRIPTS}"), None) is not None:
            found[folder] = (f"{folder}/*/*",)
    for name, patterns in LIBRI_LIGHT.items():
        if all(next(root.glob(f"{pattern}/{_TRANSCRIPTS}"), None) for pattern in patterns):
            found[name] = patterns
    return found


def _read(root: Path, patterns: Sequence[str]) -> list[Clip]:
    # Patterns of a known depth, so that no link leads round in circles.
    clips = []
    for pattern in patterns:
        for chapter in sorted(path for path in root.glob(pattern) if path.is_dir()):
            found = sorted(chapter.glob(_TRANSCRIPTS))
            if not found and next(chapter.glob("*.flac"), None) is not None:
                raise UserError(f"{chapter} has recordings and no {_TRANSCRIPTS}")
            clips += [clip for transcripts in found for clip in _chapter(root, transcripts)]
    return clips


def _chapter(root: Path, transcripts: Path) -> Iterator[Clip]:
    """The clips of one chapter's folder, whose transcripts and recordings must match."""
    folder = transcripts.parent
    recordings = {path.stem for path in folder.glob("*.flac")}
    start = folder.relative_to(root).as_posix()
    for number, name, text in read_transcripts(transcripts):
        if name not in recordings:
            raise UserError(f"{transcripts} line {number}: no recording {folder / name}.flac")
        recordings.discard(name)
        yield Clip(f"{start}/{name}.flac", text, speaker=name.partition("-")[0])
    if recordings:
        raise UserError(f"{folder / min(recordings)}.flac has no transcript in {transcripts.name}")
