"""What a search finds in emissions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from speechprune.decoding.symbols import OutputSymbols


@dataclass(frozen=True)
class Hypothesis:
    """One transcript of an utterance.

    Attributes:
        words: in order; units of a model that writes units.
        tokens: numbers of the model's symbols that were heard, without repetitions and blanks. Each
            word has its own, parted by separators.
        score: what it was chosen by: the emission score, the weighted language score, and the word
            score of each word.
        emission_score: natural logarithm of the probability of its best path.
        language_score: base-10 logarithm of its probability in the language model, unweighted; 0
            without one.
        spans: the first frame of each token and the one after its last; empty unless asked for.
    """

    words: tuple[str, ...]
    tokens: tuple[int, ...]
    score: float
    emission_score: float
    language_score: float
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def text(self) -> str:
        """The words, parted by spaces."""
        return " ".join(self.words)


class Search(Protocol):
    """Finds transcripts in emissions; can be pickled, for worker processes."""

    def __call__(self, emissions: np.ndarray) -> list[Hypothesis]:
        """The best transcripts of emissions, float32 (T, V), best first; at least one."""


@dataclass(frozen=True)
class GreedySearch:
    """The best symbol of each frame; a `Search` that finds one transcript.

    It comes with its frames: the best path of all is the best one that says what it says.
    """

    symbols: OutputSymbols

    def __call__(self, emissions: np.ndarray) -> list[Hypothesis]:
        """As `Search`."""
        best = emissions.argmax(axis=1)
        score = float(emissions.max(axis=1).sum(dtype=np.float64)) if len(emissions) else 0.0
        return [self.of_path(best, score)]

    def of_path(self, path: np.ndarray, score: float) -> Hypothesis:
        """The transcript of the symbols of frames, int (T,), with the sum of their scores."""
        tokens = self.symbols.tokens(path)
        words = tuple(self.symbols.text(tokens).split())
        return Hypothesis(words, tokens, score, score, 0.0, tuple(self.symbols.runs(path)))
