"""fairseq manifest folders: the one place that writes and reads them.

A folder holds, for each SPLIT, `SPLIT.tsv` (the audio's root, then `relative path<TAB>frames`),
`SPLIT.ltr` (letters parted by spaces, `|` after each word) and `SPLIT.wrd`; beside them
`dict.ltr.txt` (`letter count`, most frequent first) and `provenance.json`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Iterator, Mapping, Sequence

import numpy as np
import soundfile

from speechprune import __version__
from speechprune.errors import UserError

AUDIO = "audio"
PROVENANCE = "provenance.json"
SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Utterance:
    """One recording: `path` relative to the audio's root, length in `frames` (samples), `text`."""

    path: str
    frames: int
    text: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or "\t" in self.path or "\n" in self.path:
            raise UserError(f"utterance path {self.path!r} is not a plain relative path")
        if self.frames <= 0:
            raise UserError(f"utterance {self.path} has no samples")
        if self.text != " ".join(self.text.split()) or not self.text:
            raise UserError(
                f"utterance {self.path}: text {self.text!r} is not words parted by spaces"
            )

    @property
    def letters(self) -> str:
        """The text as fairseq wants it: "NO YES" becomes "N O | Y E S |"."""
        return " ".join(" ".join(word) + " |" for word in self.text.split())


@dataclass(frozen=True)
class Split:
    """The utterances of one split, in file order, and the folder that their paths start from."""

    name: str
    root: Path
    utterances: tuple[Utterance, ...]

    @property
    def seconds(self) -> float:
        """Length of the audio at `SAMPLE_RATE`."""
        return sum(u.frames for u in self.utterances) / SAMPLE_RATE

    def check_audio(self, max_frames: int | None = None) -> None:
        """Open every file's header and compare it with the manifest.

        Raises UserError for a missing or unreadable file, a sample rate other than 16 kHz, a
        length other than the manifest's, or an utterance of more than `max_frames` samples.
        """
        for utterance in self.utterances:
            _check_file(self.root / utterance.path, utterance.frames, max_frames)


def read_split(folder: Path, name: str) -> Split:
    """Read split `name` of a manifest folder.

    Raises UserError if a file is missing, malformed, or the line counts differ.
    """
    rows = _lines(folder / f"{name}.tsv")
    if len(rows) < 2:
        raise UserError(f"{folder / name}.tsv lists no audio; prepare the corpus again")
    letters = _lines(folder / f"{name}.ltr")
    if len(letters) != len(rows) - 1:
        raise UserError(
            f"{folder / name}.ltr has {len(letters)} lines for {len(rows) - 1} recordings in {name}.tsv"
        )
    utterances = []
    for number, (row, spelled) in enumerate(zip(rows[1:], letters), start=2):
        path, tab, frames = row.partition("\t")
        if not tab or not frames.isdigit():
            raise UserError(
                f"{folder / name}.tsv line {number}: expected `path<TAB>frames`, got {row!r}"
            )
        text = " ".join(spelled.replace(" ", "").replace("|", " ").split())
        utterances.append(Utterance(path, int(frames), text))
    return Split(name, Path(rows[0]), tuple(utterances))


def write_manifest(
    folder: Path,
    root: Path,
    splits: Mapping[str, Sequence[Utterance]],
    provenance: Mapping[str, Any],
) -> None:
    """Write the text files of a manifest folder whose audio is, or will be, under `root`.

    Utterances are sorted by path; the dictionary covers the letters of every split. Call it
    within `replacing`, which makes the whole folder appear at once.
    """
    counts: Counter[str] = Counter()
    summary = {}
    for name, unsorted in splits.items():
        split = Split(name, root, tuple(sorted(unsorted, key=lambda u: u.path)))
        rows = [f"{u.path}\t{u.frames}" for u in split.utterances]
        _write(folder / f"{name}.tsv", [str(root), *rows])
        _write(folder / f"{name}.ltr", [u.letters for u in split.utterances])
        _write(folder / f"{name}.wrd", [u.text for u in split.utterances])
        for utterance in split.utterances:
            counts.update(utterance.letters.split())
        summary[name] = {"utterances": len(rows), "seconds": round(split.seconds, 3)}
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    _write(folder / "dict.ltr.txt", [f"{symbol} {count}" for symbol, count in ranked])
    described = {"speechprune": __version__, **provenance, "splits": summary}
    _write(folder / PROVENANCE, [json.dumps(described, indent=2, sort_keys=True)])


def write_audio(path: Path, samples: np.ndarray) -> int:
    """Write float samples (T,) in [-1, 1] as 16-bit FLAC at 16 kHz; returns T."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return len(samples)


@contextmanager
def replacing(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends, and vanishes if it fails.

    Raises UserError if `folder` exists, unless `overwrite` is asked and it is a manifest folder.
    """
    folder = folder.absolute()
    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists; choose another folder or add --overwrite")
    if folder.exists() and not (folder / PROVENANCE).is_file():
        raise UserError(
            f"{folder} is not a prepared corpus (no {PROVENANCE}), so it is not replaced"
        )
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    outgoing = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            os.replace(folder, outgoing)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(outgoing, ignore_errors=True)


def _check_file(path: Path, frames: int, max_frames: int | None) -> None:
    if not path.is_file():
        raise UserError(f"{path} is listed in the manifest but missing; prepare the corpus again")
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} is not readable audio: {error.error_string}") from error
    if info.samplerate != SAMPLE_RATE:
        raise UserError(f"{path} has {info.samplerate} Hz; resample it to {SAMPLE_RATE} Hz")
    if info.frames != frames:
        raise UserError(f"{path} has {info.frames} samples, its manifest says {frames}")
    if max_frames is not None and frames > max_frames:
        raise UserError(
            f"{path} has {frames} samples, over dataset.max_tokens={max_frames}; raise it"
        )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is its folder a prepared corpus?") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None


def _write(path: Path, lines: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)
