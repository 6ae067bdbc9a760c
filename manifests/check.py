"""Is a manifest folder fit to train on? Checked before a model is built; one line says why not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.dictionary import SPECIAL_SYMBOLS, read_dictionary
from speechprune.manifests.headers import header_problems
from speechprune.manifests.rows import Row, read_column, read_rows
from speechprune.manifests.split_files import is_of_texts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds.

    Attributes:
        utterances: number of recordings.
        frames: audio samples of all recordings together.
        longest: samples of the longest recording.
        unknown: label symbols, repetitions counted, that the dictionary lacks.
    """

    utterances: int
    frames: int
    longest: int
    unknown: int


def check_split(
    folder: str | Path,
    split: str,
    labels: str | None = "ltr",
    *,
    dictionary_folder: str | Path | None = None,
    sample_rate: int = 16000,
    max_tokens: int | None = None,
    closed: bool = True,
) -> SplitSummary:
    """Compare ``split.tsv``, its labels, its dictionary and the header of every recording.

    Args:
        labels: ending of the label file, ``split.labels``; None for a split without labels.
        dictionary_folder: where ``dict.labels.txt`` is; ``folder`` by default.
        sample_rate: what every recording must have, in Hz.
        max_tokens: most samples that fit in a batch.
        closed: refuse symbols that the dictionary lacks, instead of counting them.

    Raises:
        UserError: a file is missing or malformed, a recording is missing, unreadable, or not as
            the manifest says, or the split is empty.
    """
    folder = Path(folder).absolute()
    manifest = folder / f"{split}.tsv"
    root, rows = read_recordings(manifest)
    _check_lengths(root, rows, max_tokens)
    unknown = 0
    if labels is not None:
        lines = read_column(folder, split, labels, len(rows))
        if not any(line.strip() for line in lines):
            raise UserError(f"{folder / split}.{labels} has empty lines only: no labels")
        dictionary = Path(dictionary_folder or folder) / f"dict.{labels}.txt"
        unknown = _count_unknown(folder / f"{split}.{labels}", lines, dictionary, closed)
    _check_recordings(root, rows, sample_rate, manifest)
    frames = [frames for _, frames in rows]
    return SplitSummary(len(rows), sum(frames), max(frames), unknown)


def read_recordings(path: Path) -> tuple[Path, list[Row]]:
    """The folder of the audio, and (path below it, samples) of each recording of a ``.tsv``.

    Raises:
        UserError: the file is missing, malformed, or lists nothing.
    """
    if not path.parent.is_dir():
        raise UserError(f"no folder {path.parent}; correct task.data, or prepare the corpus first")
    if is_of_texts(path.parent):
        raise UserError(
            f"{path.parent} holds texts, which no model of speech hears; name a folder of manifests"
        )
    if not path.is_file():
        found = ", ".join(sorted(file.stem for file in path.parent.glob("*.tsv"))) or "none"
        raise UserError(f"{path} is missing; splits in its folder: {found}")
    root, rows = read_rows(path)
    return Path(root), rows


def _check_lengths(root: Path, rows: list[Row], max_tokens: int | None) -> None:
    name, frames = max(rows, key=lambda row: row[1])
    if max_tokens is not None and frames > max_tokens:
        raise UserError(
            f"{root / name} has {frames} samples, more than dataset.max_tokens={max_tokens}; "
            "raise it, or leave the recording out"
        )


def _count_unknown(path: Path, lines: list[str], dictionary: Path, closed: bool) -> int:
    """How many symbols of the label file ``path`` its dictionary lacks."""
    known = {*SPECIAL_SYMBOLS, *read_dictionary(dictionary)[0]}
    unknown = 0
    for number, line in enumerate(lines, start=1):
        strange = [symbol for symbol in line.split() if symbol not in known]
        if strange and closed:
            raise UserError(
                f"{path} line {number}: symbol {strange[0]!r} is not in {dictionary}; "
                "make the dictionary from these labels"
            )
        unknown += len(strange)
    return unknown


def _check_recordings(root: Path, rows: list[Row], sample_rate: int, manifest: Path) -> None:
    if not root.is_dir():
        raise UserError(f"{manifest} line 1: no folder {str(root)!r}; prepare the corpus again")
    warnings: dict[str, list[str]] = {}
    for problem in header_problems(root, rows, sample_rate, f"checking {manifest.name}"):
        if problem.warning:
            warnings.setdefault(problem.kind, []).append(problem.message)
        elif problem.kind != "channels":  # fairseq averages them
            raise UserError(problem.message)
    for kind, messages in warnings.items():
        count = f"{len(messages)} of {len(rows)} recordings in {manifest}"
        logger.warning(f"{kind}: {count}, the first: {messages[0]}")
