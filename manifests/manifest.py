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


def read_split(folder: Path, name: str) -> Split:
    """Read split `name` of a manifest folder.

    Raises UserError if a file is missing, malformed, or the line counts differ.
    """
    rows = read_lines(folder / f"{name}.tsv")
    if len(rows) < 2:
        raise UserError(f"{folder / name}.tsv lists no audio; prepare the corpus again")
    letters = read_lines(folder / f"{name}.ltr")
    if len(letters) != len(rows) - 1:
        raise UserError(
            f"{folder / name}.ltr has {len(letters)} lines, but {name}.tsv lists {len(rows) - 1} "
            "recordings; prepare the corpus again"
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


def read_lines(path: Path) -> list[str]:
    """Lines as fairseq counts them: parted by line feeds only, whatever Unicode says.

    Raises UserError if the file is missing or no UTF-8 text.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return [line.rstrip("\n") for line in file]
    except FileNotFoundError:
        raise UserError(f"{path} is missing; prepare the corpus again") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; convert it") from None


def write_manifest(
    folder: Path,
    root: Path,
    splits: Mapping[str, Sequence[Utterance]],
    provenance: Mapping[str, Any],
) -> None:
    """Write the text files of a manifest folder whose audio is, or will be, under `root`.

    Utterances are sorted by path; the dictionary covers the letters of every split. Call it
    within `replacing`, which makes the whole folder appear at once. Raises UserError for a path
    that leaves `root`, or an utterance without samples or words.
    """
    counts: Counter[str] = Counter()
    summary = {}
    for name, unsorted in splits.items():
        split = Split(name, root, tuple(sorted(unsorted, key=lambda u: u.path)))
        for utterance in split.utterances:
            _check(utterance)
            counts.update(utterance.letters.split())
        rows = [f"{u.path}\t{u.frames}" for u in split.utterances]
        _write(folder / f"{name}.tsv", [str(root), *rows])
        _write(folder / f"{name}.ltr", [u.letters for u in split.utterances])
        _write(folder / f"{name}.wrd", [u.text for u in split.utterances])
        summary[name] = {"utterances": len(rows), "seconds": round(split.seconds, 3)}
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    _write(folder / "dict.ltr.txt", [f"{symbol} {count}" for symbol, count in ranked])
    described = {"speechprune": __version__, **provenance, "splits": summary}
    _write(folder / PROVENANCE, [json.dumps(described, indent=2, sort_keys=True)])


def write_audio(path: Path, samples: np.ndarray) -> int:
    """Write float samples (T,) in [-1, 1] as 16-bit FLAC at 16 kHz; returns T.

    Raises UserError if it cannot be written, as on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        soundfile.write(path, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be written: {error.error_string}") from error
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
    partial.mkdir(parents=True)
    try:
        yield partial
        _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, folder: Path) -> None:
    """Put `partial` in the place of `folder`, which stays where it was if that fails."""
    outgoing = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    if not folder.exists():
        os.replace(partial, folder)
        return
    os.replace(folder, outgoing)
    try:
        os.replace(partial, folder)
    except OSError:
        os.replace(outgoing, folder)
        raise
    shutil.rmtree(outgoing, ignore_errors=True)


def _check(utterance: Utterance) -> None:
    path = PurePosixPath(utterance.path)
    if path.is_absolute() or ".." in path.parts or {"\t", "\n"} & set(utterance.path):
        raise UserError(f"utterance path {utterance.path!r} is not a plain relative path")
    if utterance.frames <= 0:
        raise UserError(f"utterance {utterance.path} has no samples")
    plain = " ".join(utterance.text.replace("|", " ").split())
    if not plain or utterance.text != plain:
        raise UserError(
            f"utterance {utterance.path}: text {utterance.text!r} is not words parted by spaces"
        )


def _write(path: Path, lines: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)
