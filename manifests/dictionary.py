"""fairseq's dictionaries: `symbol count` a line; a symbol's line number is its output's.

Ours are sorted by symbol, so that corpora with the same symbols have them in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.lines import read_lines, write_lines


def dictionary_name(labels: str) -> str:
    """What the dictionary of the files `SPLIT.labels` is called."""
    return f"dict.{labels}.txt"


DICTIONARY = dictionary_name("ltr")
#: What fairseq's dictionaries hold without listing it.
SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")

_OVERWRITE = " #fairseq:overwrite"
_TOLD = 20  # missing symbols that a refusal names


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


def symbols_digest(path: Path | None) -> str | None:
    """SHA-256 of the symbols of a dictionary in their order, in hexadecimal; None of none.

    Raises UserError as `read_dictionary`.
    """
    return None if path is None else digest_of_symbols(read_dictionary(path)[0])


def digest_of_symbols(symbols: Iterable[str]) -> str:
    """The same of symbols, without fairseq's own."""
    return hashlib.sha256("\n".join(symbols).encode()).hexdigest()


def by_code_point(counts: Mapping[str, int]) -> dict[str, int]:
    """The same, in an order that depends on the symbols alone."""
    return dict(sorted(counts.items()))


def write_dictionary(
    path: Path, counts: Mapping[str, int], overwritten: frozenset[str] | set[str] = frozenset()
) -> None:
    """Write what `read_dictionary` reads, in the order given."""
    write_lines(
        path,
        [
            f"{symbol} {count}{_OVERWRITE if symbol in overwritten else ''}"
            for symbol, count in counts.items()
        ],
    )


def copy_dictionary(path: Path, copy: Path, needed: Iterable[str]) -> None:
    """Copy a dictionary to where its symbols will be labels.

    Raises UserError if it is missing or malformed, or lacks some of the symbols that are needed.
    """
    known = {*SPECIAL_SYMBOLS, *read_dictionary(path)[0]}
    missing = sorted(symbol for symbol in needed if symbol not in known)
    if missing:
        told = ", ".join(map(repr, missing[:_TOLD]))
        rest = f" and {len(missing) - _TOLD} more" if len(missing) > _TOLD else ""
        raise UserError(
            f"{path} lacks {told}{rest}, which the labels have; give a dictionary that has them"
        )
    write_lines(copy, read_lines(path))
