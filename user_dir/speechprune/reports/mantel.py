"""Correlation of two measures of pairs, tested by the Mantel test.

Pairs of things share things, so that they are not independent, and a p-value that takes them as
independent is too small. The test permutes the things: rows and columns of one matrix together.

Source: Mantel, "The detection of disease clustering and a generalized regression approach", Cancer
Research 27, 1967.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

#: Fewer things have too few orders for any p-value below 0.05.
LEAST = 4
#: Correlations that differ by no more are equal but for rounding.
_ROUNDING = 1e-12
#: Values that are permuted at a time.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Orders:
    """The orders of N things that a correlation is held against.

    Attributes:
        rows: (B, N) whole numbers, an order to the row.
        exact: whether these are all orders there are, each once.
    """

    rows: NDArray[np.intp]
    exact: bool

    @classmethod
    def of(cls, count: int, most: int = 10_000, seed: int = 0) -> Orders:
        """All orders of ``count`` things if they are no more than ``most``, else ``most`` random
        ones."""
        if math.factorial(count) <= most:
            every = list(itertools.permutations(range(count)))
            return cls(np.array(every, dtype=np.intp), True)
        same = np.tile(np.arange(count, dtype=np.intp), (most, 1))
        return cls(np.random.default_rng(seed).permuted(same, axis=1), False)


@dataclass(frozen=True)
class Correlation:
    """A correlation, and the chance of one as large if the things were in any order.

    Attributes:
        value: in [-1, 1].
        p: one-sided: the share of orders whose correlation is at least ``value``; of random orders
            (1 + those) / (1 + all), as the order that was found is one of them.
    """

    value: float
    p: float


def pearson(first: Matrix, second: Matrix, orders: Orders) -> Correlation | None:
    """Pearson's correlation over the pairs above the diagonal.

    Args:
        first, second: symmetric, (N, N); the diagonals do not count.
        orders: of N things.

    Returns:
        None where all pairs have one value in either matrix: no correlation is defined.
    """
    rows, columns = np.triu_indices(len(first), 1)
    one, two = _standard(first[rows, columns]), _standard(second[rows, columns])
    if one is None or two is None:
        return None
    value = float(one @ two)
    matrix = np.zeros(first.shape)
    matrix[rows, columns] = matrix[columns, rows] = one
    hits, step = 0, max(1, _CHUNK // len(rows))
    for start in range(0, len(orders.rows), step):
        order = orders.rows[start : start + step]
        permuted = matrix[order[:, rows], order[:, columns]]
        hits += int(np.count_nonzero(permuted @ two >= value - _ROUNDING))
    found = int(not orders.exact)
    return Correlation(min(1.0, max(-1.0, value)), (hits + found) / (len(orders.rows) + found))


def spearman(first: Matrix, second: Matrix, orders: Orders) -> Correlation | None:
    """As `pearson`, of the ranks of the values; equal values share their mean rank."""
    return pearson(_ranked(first), _ranked(second), orders)


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Values with mean 0 and length 1; None if all are the same but for rounding."""
    if np.ptp(values) <= _ROUNDING:
        return None
    centred = values - values.mean()
    return np.asarray(centred / np.linalg.norm(centred))


def _ranked(matrix: Matrix) -> Matrix:
    """Symmetric, (N, N): the ranks of the values above the diagonal, from 1."""
    pairs = np.triu_indices(len(matrix), 1)
    # What differs by rounding alone has one rank.
    values = np.round(matrix[pairs] / _ROUNDING)
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.zeros(matrix.shape)
    ranks[pairs] = (counts.cumsum() - (counts - 1) / 2)[places]
    return np.asarray(ranks + ranks.T)
