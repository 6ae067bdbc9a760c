"""fairseq manifest folders as values: what `prepare` writes, and training and evaluation read.

A folder holds, for each SPLIT, `SPLIT.tsv` (the audio's root, then `relative path<TAB>frames`),
`SPLIT.ltr` (symbols parted by spaces) and `SPLIT.wrd` (words parted by spaces), and `SPLIT.spk`
(the speaker) where speakers are known; beside them `dict.ltr.txt` (`symbol count`, most frequent
first) and `provenance.json`.

Symbols are letters with `|` after each word; or, in a corpus of units (phones, or Mandarin
characters), the words themselves, and there is no `|`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Sequence

from speechprune import __version__
from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE

AUDIO = "audio"
PROVENANCE = "provenance.json"


class Utterance(NamedTuple):
    """One recording; a tuple, because a corpus may have millions.

    Attributes:
        path: relative to the audio's root.
        frames: length in samples.
        text: words, or units, parted by single spaces.
        speaker: whoever speaks; "" where that is not known.
    """

    path: str
    frames: int
    text: str
    speaker: str = ""


def spell(text: str) -> str:
    """Words as letters, the way fairseq wants them: "NO YES" becomes "N O | Y E S |"."""
    return " ".join(" ".join(word) + " |" for word in text.split())


def unspell(symbols: str) -> str:
    """The text that symbols stand for: letters joined to words, or units as they are."""
    if "|" not in symbols:
        return symbols
    return " ".join(symbols.replace(" ", "").replace("|", " ").split())


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


def read_split(folder: Path, name: str, labels: str = "ltr") -> Split:
    """Read split `name` of a manifest folder, with the texts in `name.labels`.

    Raises UserError if a file is missing, malformed, or the line counts differ.
    """
    rows = read_lines(folder / f"{name}.tsv")
    if len(rows) < 2:
        raise UserError(f"{folder / name}.tsv lists no audio; prepare the corpus again")
    letters = read_lines(folder / f"{name}.{labels}")
    columns = {labels: letters}
    if (folder / f"{name}.spk").exists():
        columns["spk"] = read_lines(folder / f"{name}.spk")
    for ending, lines in columns.items():
        if len(lines) != len(rows) - 1:
            raise UserError(
                f"{folder / name}.tsv lists {len(rows) - 1} recordings, but {name}.{ending} has "
                f"{len(lines)} lines; prepare the corpus again"
            )
    speakers = columns.get("spk", [""] * len(letters))
    utterances = []
    for number, (row, symbols, speaker) in enumerate(zip(rows[1:], letters, speakers), start=2):
        path, tab, frames = row.partition("\t")
        if not tab or not frames.isdecimal():
            raise UserError(
                f"{folder / name}.tsv line {number}: expected `path<TAB>frames`, got {row!r}"
            )
        utterances.append(Utterance(path, int(frames), unspell(symbols), speaker))
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
    splits: Sequence[Split],
    provenance: Mapping[str, Any],
    *,
    units: bool = False,
) -> None:
    """Write the text files of a manifest folder.

    Utterances are sorted by path; the dictionary covers the symbols of every split. Call it
    within `replacing`, which makes the whole folder appear at once.

    Args:
        splits: at least one; their roots need not exist yet.
        provenance: what is told of the corpus in `provenance.json`, beside counts and hours.
        units: the words of the texts are the symbols; otherwise their letters are.

    Raises:
        UserError: a path leaves its root, or an utterance has no samples or words.
    """
    counts: Counter[str] = Counter()
    summary = {}
    for split in splits:
        utterances = sorted(split.utterances)
        for utterance in utterances:
            _check(utterance)
        name = split.name
        write_lines(
            folder / f"{name}.tsv",
            chain([str(split.root)], (f"{u.path}\t{u.frames}" for u in utterances)),
        )
        write_lines(folder / f"{name}.ltr", _symbols(utterances, units, counts))
        write_lines(folder / f"{name}.wrd", (u.text for u in utterances))
        if any(u.speaker for u in utterances):
            write_lines(folder / f"{name}.spk", (u.speaker for u in utterances))
        summary[name] = {"utterances": len(utterances), "hours": round(split.seconds / 3600, 6)}
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    write_lines(folder / "dict.ltr.txt", [f"{symbol} {count}" for symbol, count in ranked])
    described = {"speechprune": __version__, **provenance, "splits": summary}
    text = json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False)
    write_lines(folder / PROVENANCE, [text])


def _symbols(utterances: Iterable[Utterance], units: bool, counts: Counter[str]) -> Iterator[str]:
    """The labels, whose symbols are added to `counts`."""
    for utterance in utterances:
        line = utterance.text if units else spell(utterance.text)
        counts.update(line.split())
        yield line


def _check(utterance: Utterance) -> None:
    path = PurePosixPath(utterance.path)
    if path.is_absolute() or ".." in path.parts or {"\t", "\n", "\r"} & set(utterance.path):
        raise UserError(f"utterance path {utterance.path!r} is not a plain relative path")
    if utterance.frames <= 0:
        raise UserError(f"utterance {utterance.path} has no samples")
    plain = " ".join(utterance.text.replace("|", " ").split())
    if not plain or utterance.text != plain:
        raise UserError(
            f"utterance {utterance.path}: text {utterance.text!r} is not words parted by spaces"
        )


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write text that :func:`read_lines` reads."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)
