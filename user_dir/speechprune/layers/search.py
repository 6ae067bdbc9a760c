"""Which layers to drop, by how alike the hidden states around them are: ranked plans.

The dropped layers fall into maximal runs of neighbours [a..b]. A plan's score is the plain mean
over its runs of the similarity of the input of layer a and the output of layer b; larger is better.

Source: Liu, Peng and Lee, *CoMFLP*, Interspeech 2023 (arXiv 2309.11768), coarse search.

Similarities are rounded to a grid for comparisons, so that what ties does so in every method and on
every machine. Of plans that tie, the one that drops earlier layers is first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, combinations, islice

import numpy as np
from numpy.typing import NDArray

from speechprune.errors import UserError
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.plan import LayerPlan, check_drop

#: Plans kept from one step of the beam search to the next.
BEAM = 10
#: Most subsets that an exhaustive search looks at.
MOST_SUBSETS = 10_000_000
_CHUNK = 1 << 17

Integers = NDArray[np.int64]


def check_matrix(matrix: NDArray, drop: int, top: int = 1) -> NDArray:
    """``matrix`` as float64 (L+1, L+1).

    Args:
        drop: number of layers that are to be dropped.
        top: number of plans that are wanted.

    Raises:
        UserError: it is not square, not finite or of no model, L layers less ``drop`` cannot be, or
            no plan is wanted.
    """
    values = SimilarityMatrix(matrix).values
    layers = len(values) - 1
    with np.errstate(over="ignore"):
        if not np.isfinite(np.abs(values).max() * layers):
            raise UserError("the similarity matrix has entries that are too large to add up")
    if layers < 2:
        raise UserError(f"a matrix of shape {values.shape} is of a model with no layer to spare")
    if top < 1:
        raise UserError(f"{top} plans are none; ask for one or more")
    check_drop(drop, layers)
    return values


def on_grid(matrix: NDArray) -> Integers:
    """Similarities as integers, so coarse that a float64 tells different means apart.

    Means over at most R runs differ by 1/R² or more, if they differ: with 50 - 2 log2 R bits they
    do so after rounding to a float64 too. The scale is a power of two, which rounds nothing itself.
    What compares no state with a later one is in no score, and becomes 0.
    """
    matrix = np.triu(matrix, 1)
    runs = len(matrix) // 2
    bits = 50 - 2 * math.ceil(math.log2(runs))
    _, exponent = np.frexp(np.abs(matrix).max())
    return np.rint(np.ldexp(matrix, bits - exponent)).astype(np.int64)


def score(matrix: NDArray, plan: LayerPlan) -> float:
    """The mean similarity over the plan's runs."""
    return math.fsum(float(matrix[first, end]) for first, end in plan.runs) / len(plan.runs)


def scored_plan(matrix: NDArray, dropped: Iterable[int]) -> LayerPlan:
    """The plan that drops some layers, with its score."""
    plan = LayerPlan(len(matrix) - 1, tuple(int(layer) for layer in dropped))
    return LayerPlan(plan.layers, plan.dropped, score(matrix, plan))


def greedy(matrix: NDArray, drop: int) -> list[LayerPlan]:
    """The plan that comes of adding the best layer at each step.

    Args:
        matrix: float (L+1, L+1); entry [i, j] compares hidden states i and j.
        drop: number of layers to drop, 1 to L - 1.

    Raises:
        UserError: as `check_matrix`.
    """
    return beam(matrix, drop, top=1, width=1)


def beam(matrix: NDArray, drop: int, top: int = BEAM, *, width: int = BEAM) -> list[LayerPlan]:
    """The best plans of a search that keeps the ``width`` best sets at each step, each set once.

    Raises:
        UserError: as `check_matrix`.
    """
    matrix = check_matrix(matrix, drop, top)
    grid = on_grid(matrix)
    layers = len(matrix) - 1
    dropped = np.zeros((1, layers), dtype=bool)
    sums, runs = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for _ in range(drop):
        new_sums, new_runs = _with_one_more(grid, dropped, sums, runs)
        means = np.full(dropped.shape, -np.inf)
        np.divide(new_sums, new_runs, out=means, where=~dropped)
        chosen = _best_sets(dropped, means, width)
        parents, added = (np.array(column) for column in zip(*chosen))
        sums, runs = new_sums[parents, added], new_runs[parents, added]
        dropped = dropped[parents]
        dropped[np.arange(len(chosen)), added] = True
    return [scored_plan(matrix, np.flatnonzero(row)) for row in dropped[:top]]


def exhaustive(matrix: NDArray, drop: int, top: int = BEAM) -> list[LayerPlan]:
    """The best plans of all.

    Raises:
        UserError: as `check_matrix`, or there are more than `MOST_SUBSETS` plans.
    """
    matrix = check_matrix(matrix, drop, top)
    layers = len(matrix) - 1
    count = math.comb(layers, drop)
    if count > MOST_SUBSETS:
        raise UserError(
            f"there are {count:.3g} ways to drop {drop} of {layers} layers; `--method exact` finds "
            "the same plans without trying them all"
        )
    grid = on_grid(matrix)
    best = np.empty((0, drop), dtype=np.int64)
    means = np.empty(0)
    for subsets in _subsets(layers, drop):
        found = _means(grid, subsets)
        if len(means) == top:  # only those that better the worst need to be sorted
            is_better = found > means[-1]
            subsets, found = subsets[is_better], found[is_better]
        best, means = np.concatenate([best, subsets]), np.concatenate([means, found])
        # Subsets come in order, and a stable sort leaves those that tie so.
        order = np.argsort(-means, kind="stable")[:top]
        best, means = best[order], means[order]
    return [scored_plan(matrix, row) for row in best]


def random(matrix: NDArray, drop: int, top: int = BEAM, *, seed: int = 0) -> list[LayerPlan]:
    """Different plans drawn at random, the best of them first.

    Raises:
        UserError: as `check_matrix`.
    """
    matrix = check_matrix(matrix, drop, top)
    layers = len(matrix) - 1
    generator = np.random.default_rng(seed)
    drawn: dict[tuple[int, ...], None] = {}
    while len(drawn) < min(top, math.comb(layers, drop)):
        subset = generator.choice(layers, drop, replace=False)
        drawn[tuple(sorted(subset.tolist()))] = None
    subsets = np.array(sorted(drawn))
    order = np.argsort(-_means(on_grid(matrix), subsets), kind="stable")
    return [scored_plan(matrix, row) for row in subsets[order]]


def _with_one_more(
    grid: Integers, dropped: NDArray, sums: Integers, runs: Integers
) -> tuple[Integers, Integers]:
    """Sums over runs and numbers of runs after dropping one layer more, both (beams, L)."""
    beams, layers = dropped.shape
    here = np.arange(layers)
    # The run that a layer would belong to reaches from behind the last layer that is kept before it
    # to the first one that is kept after it.
    edges = np.where(dropped, -1, here)
    before = np.concatenate([np.full((beams, 1), -1), edges[:, :-1]], axis=1)
    first = np.maximum.accumulate(before, axis=1) + 1
    after = np.concatenate([np.where(dropped, layers, here)[:, 1:], np.full((beams, 1), layers)], 1)
    end = np.minimum.accumulate(after[:, ::-1], axis=1)[:, ::-1]
    joins_left, joins_right = first < here, end > here + 1
    change = grid[first, end]
    change -= np.where(joins_left, grid[first, np.broadcast_to(here, first.shape)], 0)
    change -= np.where(joins_right, grid[np.broadcast_to(here + 1, end.shape), end], 0)
    return sums[:, None] + change, runs[:, None] + 1 - joins_left - joins_right


def _best_sets(dropped: NDArray, means: NDArray, width: int) -> list[tuple[int, int]]:
    """The (beam, layer added) of the ``width`` best different sets, best first."""
    layers = dropped.shape[1]
    flat = means.ravel()
    # A set can be reached once from each beam: this many candidates hold `width` different ones.
    enough = min(len(flat), width * len(dropped))
    worst = np.partition(flat, -enough)[-enough]
    found: dict[bytes, tuple[float, int, int]] = {}
    for index in np.flatnonzero((flat >= worst) & (flat > -np.inf)):
        parent, added = divmod(int(index), layers)
        kept = ~dropped[parent]
        kept[added] = False
        found.setdefault(kept.tobytes(), (-flat[index], parent, added))
    # Bytes compare as sets do: the first difference is a layer that one drops and the other keeps.
    ranked = sorted(found.items(), key=lambda item: (item[1][0], item[0]))
    return [(parent, added) for _, (_, parent, added) in ranked[:width]]


def _means(grid: Integers, subsets: NDArray) -> NDArray:
    """The score of each subset, (N,), from its layers in ascending order, (N, K)."""
    step = np.diff(subsets, axis=1) != 1
    edge = np.ones((len(subsets), 1), dtype=bool)
    starts, ends = np.concatenate([edge, step], axis=1), np.concatenate([step, edge], axis=1)
    first = np.maximum.accumulate(np.where(starts, subsets, -1), axis=1)
    sums = np.where(ends, grid[first, subsets + 1], 0).sum(axis=1)
    means: NDArray = sums / starts.sum(axis=1)
    return means


def _subsets(layers: int, drop: int) -> Iterator[NDArray]:
    """All subsets in lexicographic order, many at a time, (N, ``drop``)."""
    remaining = combinations(range(layers), drop)
    while True:
        numbers = chain.from_iterable(islice(remaining, _CHUNK))
        chunk = np.fromiter(numbers, dtype=np.int64).reshape(-1, drop)
        if not len(chunk):
            return
        yield chunk
