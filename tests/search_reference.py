"""A reference for layer searches in exact arithmetic, and matrices to search."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from itertools import combinations
from typing import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from speechprune.layers.optimum import exact
from speechprune.layers.plan import LayerPlan
from speechprune.layers.search import beam, exhaustive, greedy, random

Search = Callable[..., list[LayerPlan]]
PUBLISHED = ("cca_mat_9600U_svthre0.99.npy", "dc_mat_mean_bs32_iter10.npy")
METHODS: dict[str, Search] = {
    "greedy": greedy,
    "beam": beam,
    "exhaustive": exhaustive,
    "exact": exact,
    "random": random,
}


def runs_of(dropped: tuple[int, ...]) -> list[tuple[int, int]]:
    """Input of the first and output of the last layer of each run: states, not layers."""
    starts = [layer for layer in dropped if layer - 1 not in dropped]
    ends = [layer + 1 for layer in dropped if layer + 1 not in dropped]
    return list(zip(starts, ends))


class Reference:
    """Means of a matrix's entries without any rounding: entries are integers of a small unit."""

    def __init__(self, matrix: NDArray) -> None:
        self.layers = len(matrix) - 1
        exactly = [[Fraction(float(value)) for value in row] for row in matrix]
        # The denominators of floats are powers of two; those of means, numbers of runs.
        most = max(value.denominator for row in exactly for value in row)
        self.unit = Fraction(1, most * math.lcm(*range(1, self.layers + 1)))
        self.entries = [[int(value / self.unit) for value in row] for row in exactly]

    def mean(self, dropped: tuple[int, ...]) -> int:
        runs = runs_of(dropped)
        return sum(self.entries[first][end] for first, end in runs) // len(runs)

    def ranked(self, sets: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Largest mean first; of those that tie, the lexicographically smallest."""
        return sorted(sets, key=lambda dropped: (-self.mean(dropped), dropped))

    def all(self, drop: int) -> list[tuple[int, ...]]:
        return self.ranked(combinations(range(self.layers), drop))

    def beam(self, drop: int, width: int) -> list[tuple[int, ...]]:
        """Each set once; the best ``width`` of each size lead to the next."""
        kept: list[tuple[int, ...]] = [()]
        for _ in range(drop):
            larger = {
                tuple(sorted((*dropped, layer)))
                for dropped in kept
                for layer in range(self.layers)
                if layer not in dropped
            }
            kept = self.ranked(larger)[:width]
        return kept


def matrices(layers: int, seed: int) -> dict[str, NDArray]:
    """Matrices of the kinds that occur, and of those that are hard to rank."""
    generator = np.random.default_rng(seed)
    shape = (layers + 1, layers + 1)
    uniform = generator.uniform(0.2, 1.0, shape)
    states = np.arange(layers + 1)
    few = generator.integers(0, 3, shape) / 2
    # A power of two as the largest value: sums of few values are then exact on any binary grid.
    few[0, layers] = 1.0
    found = {
        "uniform": uniform,
        "symmetric": (uniform + uniform.T) / 2,
        "of both signs": generator.normal(size=shape),
        "negative": uniform - 5.0,
        "like a model's": 1.0 - 0.02 * np.abs(states[:, None] - states) * uniform,
        "ones": np.ones(shape),
        "zeros": np.zeros(shape),
        "few values": few,
        "few negative values": -few,
        "bits": (few > 0.5).astype(float),
        "steps of 1/64": generator.integers(-64, 65, shape) / 64,
        "equal by diagonals": (np.abs(states[:, None] - states) % 2).astype(float),
        "large": uniform * 1e300,
        "denormal": np.rint(few * 4) * 5e-324,
        "float32": uniform.astype(np.float32),
        "integers": generator.integers(-1, 2, shape),
    }
    found["steps of 1/64"][0, layers] = 1.0
    found["integers"][0, layers] = 1
    return found


def sets(plans: list[LayerPlan]) -> list[tuple[int, ...]]:
    return [plan.dropped for plan in plans]


def assert_scores(plans: list[LayerPlan], reference: Reference) -> None:
    for plan in plans:
        mean = float(reference.mean(plan.dropped) * reference.unit)
        assert plan.layers == reference.layers
        assert plan.score == pytest.approx(mean, rel=1e-14, abs=1e-300)
