"""Lexicons: which words a search may write, and how they are spelt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from speechprune.decoding.language_model import split_fields
from speechprune.decoding.symbols import OutputSymbols
from speechprune.errors import UserError
from speechprune.manifests.spelling import WORD_END

#: Most words that flashlight's trie holds for one spelling.
MOST_OF_ONE_SPELLING = 6
_SHOWN = 8


class Entry(NamedTuple):
    """A word and how it is spelt, without the separator after it."""

    word: str
    spelling: tuple[str, ...]


def read_lexicon(path: Path) -> list[Entry]:
    """The entries of a lexicon in fairseq's form: lines of a word and its letters, parted by blanks
    or tabs, with or without the `|` at the end. A word may have several spellings, in as many
    lines.

    Raises:
        UserError: it cannot be read, or a line is not of this form.
    """
    try:
        # Other white space than blanks and tabs may be part of a word, as KenLM sees it.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a lexicon: it is not text in UTF-8") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        word, *spelling = split_fields(line) or [""]
        if not word:
            continue
        if spelling[-1:] == [WORD_END]:
            spelling.pop()
        if not spelling or WORD_END in spelling:
            raise UserError(
                f"{path}:{number} is not a word with its letters, such as 'NO N O {WORD_END}': "
                f"{line.strip()[:60]!r}"
            )
        entries.append(Entry(word, tuple(spelling)))
    if not entries:
        raise UserError(f"{path} is a lexicon without a word")
    return list(dict.fromkeys(entries))


def spelt_by_letters(words: Iterable[str]) -> list[Entry]:
    """The entries of words that are spelt by their own characters."""
    return [Entry(word, tuple(word)) for word in words]


def fitting(
    entries: Sequence[Entry], symbols: OutputSymbols, source: Path, model: Path
) -> tuple[list[Entry], str]:
    """The entries that a model can spell, and a remark on those that are left out, or "".

    Args:
        source: of the entries, for messages; and ``model``, of the symbols.

    Raises:
        UserError: there are none.
    """
    letters = {symbols.names[number] for number in symbols.written} - {WORD_END}
    fit = [entry for entry in entries if letters.issuperset(entry.spelling)]
    unknown = dict.fromkeys(
        letter for entry in entries for letter in entry.spelling if letter not in letters
    )
    if not fit:
        raise UserError(
            f"no word of {source} can be spelt by {model}, which lacks {_listed(list(unknown))}; "
            f"its own symbols are {_listed(sorted(letters))}"
        )
    _refuse_homonyms(fit, source)
    if len(fit) == len(entries):
        return fit, ""
    return fit, (
        f"{len(entries) - len(fit)} of {len(entries)} words of {source} are left out: {model} "
        f"lacks {_listed(list(unknown))}"
    )


def _refuse_homonyms(entries: Sequence[Entry], source: Path) -> None:
    ((spelling, count),) = Counter(entry.spelling for entry in entries).most_common(1)
    if count > MOST_OF_ONE_SPELLING:
        raise UserError(
            f"{source} has {count} words that are spelt {' '.join(spelling)!r}; a search tells at "
            f"most {MOST_OF_ONE_SPELLING} apart"
        )


def _listed(symbols: Sequence[str]) -> str:
    """The first of some symbols, and how many more there are."""
    shown = " ".join(symbols[:_SHOWN])
    more = len(symbols) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
