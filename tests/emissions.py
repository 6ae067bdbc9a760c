"""Emissions of made-up models, and the transcripts that all of their paths give."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from speechprune.decoding.symbols import OutputSymbols

#: As fairseq numbers them: `<s>` is the blank.
SYMBOLS = OutputSymbols(
    ("<s>", "<pad>", "</s>", "<unk>", "|", "A", "B"), 0, frozenset((0, 1, 2)), 3
)
UNITS = OutputSymbols(("<s>", "<pad>", "</s>", "<unk>", "a", "b"), 0, frozenset((0, 1, 2)), 3)


def random_emissions(frames: int, symbols: OutputSymbols, seed: int) -> np.ndarray:
    """Logarithms of random probabilities, float32 (T, V)."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(len(symbols.names), 0.5), size=frames)
    return np.log(np.maximum(shares, 1e-6)).astype(np.float32)


def best_paths(emissions: np.ndarray, symbols: OutputSymbols) -> dict[tuple[int, ...], float]:
    """The score of the best path of each sequence of tokens, all paths tried one by one.

    Silent symbols count together as the blank; the unknown symbol is never written.
    """
    best: dict[tuple[int, ...], float] = {}
    silent = np.logaddexp.reduce(emissions[:, sorted(symbols.silent)], axis=1)
    for path in product((None, *symbols.written), repeat=len(emissions)):
        score = sum(
            float(silent[t] if number is None else emissions[t, number])
            for t, number in enumerate(path)
        )
        tokens = tuple(_collapsed(path))
        best[tokens] = max(score, best.get(tokens, -np.inf))
    return best


def _collapsed(path: tuple[int | None, ...]) -> Iterator[int]:
    before = None
    for number in path:
        if number is not None and number != before:
            yield number
        before = number
