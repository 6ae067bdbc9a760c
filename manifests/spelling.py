"""Words spelt as the letters that fairseq's labels are, and back."""

from __future__ import annotations

#: After each word of labels that are letters; a dictionary without it is of units.
WORD_END = "|"


def spell(text: str) -> str:
    """Words as letters, the way fairseq wants them: "NO YES" becomes "N O | Y E S |"."""
    return " ".join(" ".join(word) + f" {WORD_END}" for word in text.split())


def unspell(symbols: str, *, letters: bool) -> str:
    """The text that symbols stand for: letters joined to words, or units as they are.

    Args:
        letters: whether the dictionary has `WORD_END`. No line tells it: one of a single word may
            lack the end.
    """
    if letters:
        symbols = symbols.replace(" ", "").replace(WORD_END, " ")
    return " ".join(symbols.split())
