"""Greedy CTC decoding: the best symbol of each frame, in training's validation and afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from speechprune.decoding.symbols import symbols_of
from speechprune.manifests.spelling import WORD_END

if TYPE_CHECKING:
    from fairseq.data.dictionary import Dictionary


def spells_words(dictionary: Dictionary) -> bool:
    """Whether the symbols are letters of words; else they are units that stand alone: phones, or
    Mandarin characters."""
    return WORD_END in dictionary.indices


def decode(dictionary: Dictionary, emissions: Tensor) -> Iterator[str]:
    """Best symbol of each frame, repetitions and blanks removed, letters joined to words.

    Args:
        dictionary: of the outputs; its `<s>` is the blank.
        emissions: CTC scores, (T, B, symbols); frames of padding emit blanks.
    """
    symbols = symbols_of(dictionary)
    for path in emissions.argmax(dim=-1).T.cpu().numpy():
        yield symbols.text(symbols.tokens(path))
