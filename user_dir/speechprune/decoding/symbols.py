"""What the outputs of a CTC model stand for, without the library that it was trained with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from speechprune.manifests.spelling import WORD_END, unspell

if TYPE_CHECKING:
    from fairseq.data.dictionary import Dictionary

#: Stands for fairseq's `<unk>` in transcripts: one character, since it is one error.
UNKNOWN = "\u2047"
#: What fairseq fills a dictionary up with, to a number of symbols that is good for GPUs.
_FILLER = re.compile(r"madeupword\d{4}")


@dataclass(frozen=True)
class OutputSymbols:
    """The symbols of a CTC model, by their numbers.

    Attributes:
        names: of all outputs, in order.
        blank: CTC's blank.
        silent: outputs that write nothing, such as padding; the blank is one of them.
        unknown: the output that stands for any symbol that training did not know; None without one.
    """

    names: tuple[str, ...]
    blank: int
    silent: frozenset[int]
    unknown: int | None

    @property
    def separator(self) -> int | None:
        """What ends a word; None if the symbols are units that stand alone."""
        return self.names.index(WORD_END) if WORD_END in self.names else None

    @property
    def written(self) -> tuple[int, ...]:
        """Outputs that a text can be made of, the separator being one of them."""
        unwritten = self.silent if self.unknown is None else self.silent | {self.unknown}
        return tuple(
            number
            for number, name in enumerate(self.names)
            if number not in unwritten and not _FILLER.fullmatch(name)
        )

    def tokens(self, path: np.ndarray) -> tuple[int, ...]:
        """What a path says: its symbols, int (T,), without repetitions and without silent ones."""
        return tuple(int(path[begin]) for begin, _ in self.runs(path))

    def runs(self, path: np.ndarray) -> list[tuple[int, int]]:
        """The first frame of each token of a path, int (T,), and the one after its last."""
        if not len(path):
            return []
        edges = np.flatnonzero(np.diff(path)) + 1
        begins, ends = [0, *edges.tolist()], [*edges.tolist(), len(path)]
        return [(b, e) for b, e in zip(begins, ends) if int(path[b]) not in self.silent]

    def words(self, tokens: Sequence[int]) -> list[range]:
        """The places in ``tokens`` of the symbols of each word, or of each unit."""
        if self.separator is None:
            return [range(place, place + 1) for place in range(len(tokens))]
        found, begin = [], 0
        for place, token in enumerate((*tokens, self.separator)):
            if token == self.separator:
                if place > begin:
                    found.append(range(begin, place))
                begin = place + 1
        return found

    def text(self, tokens: Iterable[int]) -> str:
        """What tokens are as a text; letters are joined to words."""
        names = (UNKNOWN if n == self.unknown else self.names[n] for n in tokens)
        return unspell(" ".join(names), letters=self.separator is not None)


def symbols_of(dictionary: Dictionary) -> OutputSymbols:
    """The outputs of a model that fairseq trained; its `<s>` is the blank."""
    silent = frozenset((dictionary.bos(), dictionary.pad(), dictionary.eos()))
    return OutputSymbols(tuple(dictionary.symbols), dictionary.bos(), silent, dictionary.unk())
