"""Words spelt as the letters that fairseq's labels are, and back."""

from __future__ import annotations

#: After each word of labels that are letters; labels without it are units.
WORD_END = "|"


def spell(text: str) -> str:
    """Words as letters, the way fairseq wants them: "NO YES" becomes "N O | Y E S |"."""
    return " ".join(" ".join(word) + f" {WORD_END}" for word in text.split())


def unspell(symbols: str) -> str:
    """The text that symbols stand for: letters joined to words, or units as they are."""
    if WORD_END not in symbols:
        return symbols
    return " ".join(symbols.replace(" ", "").replace(WORD_END, " ").split())
