"""fairseq's dictionaries: `symbol count` a line, the most frequent first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.lines import read_lines, write_lines

DICTIONARY = "dict.ltr.txt"
#: What fairseq's dictionaries hold without listing it.
SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")

_OVERWRITE = " #fairseq:overwrite"


def ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names and counts, the most frequent first, ties by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def read_dictionary(path: Path) -> tuple[dict[str, int], set[str]]:
    """Count by symbol, in file order; and the symbols marked for fairseq to overwrite.

    Raises UserError if the file is missing or malformed.
    """
    counts: dict[str, int] = {}
    overwritten = set()
    for number, line in enumerate(read_lines(path), start=1):
        plain = line[: -len(_OVERWRITE)] if line.endswith(_OVERWRITE) else line
        symbol, _, count = plain.rpartition(" ")
        if not symbol or not count.isdecimal():
            raise UserError(f"{path} line {number}: expected `symbol count`, got {line!r}")
        if symbol in counts and plain == line:
            raise UserError(
                f"{path} line {number}: {symbol!r} is there twice, which fairseq refuses"
            )
        counts[symbol] = int(count)
        if plain != line:
            overwritten.add(symbol)
    return counts, overwritten


def write_dictionary(
    path: Path, counts: Mapping[str, int], overwritten: frozenset[str] | set[str] = frozenset()
) -> None:
    """Write what `read_dictionary` reads."""
    write_lines(
        path,
        [
            f"{symbol} {count}{_OVERWRITE if symbol in overwritten else ''}"
            for symbol, count in ranked(counts)
        ],
    )
