"""Alignment against all paths, and the times of words in samples."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from emissions import SYMBOLS, random_emissions

from speechprune.decoding.alignment import aligned
from speechprune.decoding.hypothesis import GreedySearch, Hypothesis
from speechprune.decoding.timing import FrameTimes, timed_words


def best_by_trying(emissions: np.ndarray, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """The best of all paths that say these tokens: symbols of the frames."""
    paths = [
        path
        for path in product((0, *set(tokens)), repeat=len(emissions))
        if SYMBOLS.tokens(np.array(path)) == tokens
    ]
    return max(paths, key=lambda path: sum(float(emissions[t, n]) for t, n in enumerate(path)))


@pytest.mark.parametrize("tokens", [(5,), (5, 6), (5, 5), (5, 5, 6), (6, 4, 6, 4), (5, 6, 6, 5)])
@pytest.mark.parametrize("seed", range(5))
def test_spans_are_those_of_the_best_path(tokens: tuple[int, ...], seed: int) -> None:
    emissions = random_emissions(7, SYMBOLS, seed)
    expected = SYMBOLS.runs(np.array(best_by_trying(emissions, tokens)))
    assert aligned(emissions, tokens, 0) == expected


@pytest.mark.parametrize("seed", range(8))
def test_the_best_path_of_all_is_its_own_alignment(seed: int) -> None:
    emissions = random_emissions(60, SYMBOLS, seed)
    emissions[:, [1, 2]] = -30.0
    (greedy,) = GreedySearch(SYMBOLS)(emissions)
    assert len(greedy.tokens) > 10
    assert tuple(aligned(emissions, greedy.tokens, 0)) == greedy.spans


def test_nothing_takes_no_frames_and_too_much_is_refused() -> None:
    emissions = random_emissions(3, SYMBOLS, 0)
    assert aligned(emissions, (), 0) == []
    assert aligned(emissions, (5, 5), 0) == [(0, 1), (2, 3)]
    with pytest.raises(ValueError, match="3 frames cannot say 4 tokens"):
        aligned(emissions, (5, 6, 5, 6), 0)
    with pytest.raises(ValueError, match="3 frames cannot say 3 tokens"):
        aligned(emissions, (5, 5, 6), 0)


def test_times_lie_in_the_middle_of_what_frames_hear() -> None:
    at = FrameTimes(rate=16000, stride=320, receptive=400)
    assert at.seconds(0) == 40 / 16000 and at.seconds(50) == (40 + 16000) / 16000
    tokens, spans = (5, 6, 4, 4, 6), ((2, 3), (5, 6), (6, 7), (8, 9), (10, 12))
    hypothesis = Hypothesis(("AB", "B"), tokens, 0.0, 0.0, 0.0, spans)
    first, second = timed_words(hypothesis, SYMBOLS, at)
    assert (first.text, first.start, first.end) == ("AB", at.seconds(2), at.seconds(6))
    assert (second.text, second.start, second.end) == ("B", at.seconds(10), at.seconds(12))
