"""Greedy CTC decoding: the best symbol of each frame, in training's validation and afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from speechprune.manifests.spelling import WORD_END, unspell

if TYPE_CHECKING:
    from fairseq.data.dictionary import Dictionary

#: Stands for fairseq's `<unk>` in transcripts: one character, since it is one error.
UNKNOWN = "\u2047"


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
    letters = spells_words(dictionary)
    silent = {dictionary.bos(), dictionary.pad(), dictionary.eos()}
    for frames in emissions.argmax(dim=-1).T.cpu():
        numbers = [n for n in frames.unique_consecutive().tolist() if n not in silent]
        symbols = (UNKNOWN if n == dictionary.unk() else dictionary[n] for n in numbers)
        yield unspell(" ".join(symbols), letters=letters)
