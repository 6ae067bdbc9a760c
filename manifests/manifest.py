"""fairseq manifest folders as values: what `prepare` writes, and training and evaluation read.

A folder holds, for each SPLIT, `SPLIT.tsv` (the audio's root, then `relative path<TAB>frames`),
`SPLIT.ltr` (symbols parted by spaces) and `SPLIT.wrd` (words parted by spaces), and `SPLIT.spk`
(the speaker) where speakers are known; beside them `dict.ltr.txt` (`symbol count`, sorted by
symbol) and `provenance.json`.

Symbols are letters with `|` after each word; or, in a corpus of units (phones, or Mandarin
characters), the words themselves, and there is no `|`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Sequence

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.dictionary import (
    DICTIONARY,
    by_code_point,
    copy_dictionary,
    dictionary_name,
    read_dictionary,
    write_dictionary,
)
from speechprune.manifests.lines import write_lines
from speechprune.manifests.provenance import write_provenance
from speechprune.manifests.rows import described_size
from speechprune.manifests.spelling import WORD_END, spell, unspell
from speechprune.manifests.verbatim import read_verbatim

AUDIO = "audio"


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


def read_split(
    folder: Path, name: str, labels: str = "ltr", *, letters: bool | None = None
) -> Split:
    """Read split `name` of a manifest folder, with the texts in `name.labels`.

    Args:
        letters: whether the labels are letters, and not units; by default what the folder's
            dictionary says, or the split as a whole, if there is none.

    Raises UserError if a file is missing, malformed, or the line counts differ.
    """
    lines = read_verbatim(folder, name, labels, ("spk",))
    if letters is None:
        letters = _are_letters(folder / dictionary_name(labels), lines.columns[labels])
    texts = (unspell(line, letters=letters) for line in lines.columns[labels])
    speakers = lines.columns.get("spk", [""] * len(lines))
    utterances = map(Utterance, lines.paths, lines.frames, texts, speakers)
    return Split(name, Path(lines.root), tuple(utterances))


def _are_letters(dictionary: Path, labels: Sequence[str]) -> bool:
    if dictionary.is_file():
        return WORD_END in read_dictionary(dictionary)[0]
    return any(WORD_END in line.split() for line in labels)


def write_manifest(
    folder: Path,
    splits: Sequence[Split],
    provenance: Mapping[str, Any],
    *,
    units: bool = False,
    dictionary: Path | None = None,
) -> None:
    """Write the text files of a manifest folder.

    Utterances are sorted by path; the dictionary covers the symbols of every split. Call it
    within `replacing`, which makes the whole folder appear at once.

    Args:
        splits: at least one; their roots need not exist yet.
        provenance: what `provenance.json` says about the corpus, beside counts and hours.
        units: the words of the texts are the symbols; otherwise their letters are.
        dictionary: a file to copy; by default one is made of the symbols.

    Raises:
        UserError: a path leaves its root, an utterance has no samples or words, or `dictionary`
            lacks a symbol.
    """
    counts: Counter[str] = Counter()
    sizes = {}
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
        sizes[name] = described_size([u.frames for u in utterances])
    if dictionary is None:
        write_dictionary(folder / DICTIONARY, by_code_point(counts))
    else:
        copy_dictionary(dictionary, folder / DICTIONARY, counts)
    write_provenance(folder, {**provenance, "splits": sizes})


def _symbols(utterances: Iterable[Utterance], units: bool, counts: Counter[str]) -> Iterator[str]:
    """The labels, whose symbols are added to `counts`."""
    for utterance in utterances:
        line = utterance.text if units else spell(utterance.text)
        counts.update(line.split())
        yield line


def _check(utterance: Utterance) -> None:
    check_audio(utterance.path, utterance.frames)
    plain = " ".join(utterance.text.replace("|", " ").split())
    if not plain or utterance.text != plain:
        raise UserError(
            f"utterance {utterance.path}: text {utterance.text!r} is not words parted by spaces"
        )


def check_audio(path: str, frames: int) -> None:
    """Raise UserError for a path that no manifest can hold, or a recording without samples."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or {"\t", "\n", "\r"} & set(path):
        raise UserError(f"utterance path {path!r} is not a plain relative path")
    if frames <= 0:
        raise UserError(f"utterance {path} has no samples")
