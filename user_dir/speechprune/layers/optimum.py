"""The best plans of all, for a model of any depth, by dynamic programming.

A plan's score is a mean over its runs, and means do not add up along the layers. Sums do: the mean
is at least t exactly if the sum over the runs of (similarity - t) is not negative. So plans are
ranked by that sum for a trial t, by dynamic programming; t is raised to the worst mean among the
best plans found; and this is repeated until it rises no more (Dinkelbach, *On nonlinear fractional
programming*, Management Science 1967, here for the N best).

All arithmetic is on integers: the trial mean is a fraction, and sums are multiplied by its
denominator.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from speechprune.layers.plan import LayerPlan
from speechprune.layers.search import BEAM, Integers, check_matrix, greedy, on_grid, scored_plan

#: Less than any sum, with room to add some: no such plan.
_NEVER = -(1 << 61)


def exact(matrix: NDArray, drop: int, top: int = BEAM) -> list[LayerPlan]:
    """The ``top`` plans with the largest scores of all; fewer if there are fewer.

    Args:
        matrix: float (L+1, L+1); entry [i, j] compares hidden states i and j.
        drop: number of layers to drop, 1 to L - 1.

    Raises:
        UserError: the matrix is not square or not finite, or ``drop`` is not within it.
    """
    matrix = check_matrix(matrix, drop, top)
    grid = on_grid(matrix)
    best = [_Candidate.of(greedy(matrix, drop)[0].runs, grid)]
    while True:
        trial, is_full = best[-1], len(best) == top
        sums = _Sums(grid, drop, trial.total, trial.runs)
        found = sums.largest(top)
        pool = {candidate.edges: candidate for candidate in (*best, *found)}
        best = sorted(pool.values(), key=lambda candidate: candidate.rank)[:top]
        # Plans better than the trial have positive sums: if there are fewer than wanted, all of
        # them are in, and of those as good as the trial the first ones.
        if len(found) < top or (is_full and best[-1].mean <= trial.mean):
            return [scored_plan(matrix, candidate.dropped) for candidate in best]


@dataclass(frozen=True)
class _Candidate:
    """A plan on the grid: where its runs begin and end, and their sum."""

    edges: tuple[tuple[int, int], ...]
    total: int

    @classmethod
    def of(cls, edges: tuple[tuple[int, int], ...], grid: Integers) -> _Candidate:
        return cls(edges, sum(int(grid[first, end]) for first, end in edges))

    @property
    def runs(self) -> int:
        return len(self.edges)

    @property
    def mean(self) -> float:
        return self.total / self.runs

    @property
    def dropped(self) -> tuple[int, ...]:
        return tuple(layer for first, end in self.edges for layer in range(first, end))

    @property
    def rank(self) -> tuple[float, tuple[int, ...]]:
        return -self.mean, self.dropped


class _Sums:
    """The largest sums over runs of (similarity - total / runs), times ``runs``.

    ``best[p, k]`` is the largest sum over the layers from p on of which k are dropped, when layer
    p - 1 stays. It is kept by diagonals, ``diagonals[p + k, p]``: a run of layers p .. e-1 leads on
    to e + 1, with k - (e - p) layers to drop, which is on the diagonal p + k + 1 for every e.
    """

    def __init__(self, grid: Integers, drop: int, total: int, runs: int) -> None:
        self.grid = grid
        self.drop = drop
        self.layers = len(grid) - 1
        self.values = grid * runs - total
        self.diagonals = np.full((self.layers + drop + 2, self.layers + 2), _NEVER, dtype=np.int64)
        # Behind the last layer, whether it stays or goes, there is nothing left to drop.
        self.diagonals[self.layers, self.layers] = 0
        self.diagonals[self.layers + 1, self.layers + 1] = 0
        for position in range(self.layers - 1, -1, -1):
            self._fill(position)

    def _fill(self, position: int) -> None:
        most = min(self.drop, self.layers - position)
        rows = slice(position + 1, position + most + 2)
        ends = slice(position + 2, position + most + 2)
        following = self.diagonals[rows, ends]
        after_runs = (following + self.values[position, position + 1 : ends.stop - 1]).max(axis=1)
        # Row k of the slices: with k layers to drop from here on, which staying leaves as they are.
        staying = self.diagonals[rows, position + 1]
        target = self.diagonals[position : position + most + 1, position]
        np.maximum(after_runs, staying, out=target)
        np.maximum(target, _NEVER, out=target)

    def largest(self, count: int) -> list[_Candidate]:
        """The ``count`` plans with the largest sums; of equal ones, those that drop earlier layers.

        A search from the front, with the table above as what each beginning can come to at best, so
        that no beginning is followed that leads to a lesser plan.
        """
        found: list[_Candidate] = []
        queue: list[tuple[int, bytes, _Choices, int]] = []
        self._push(queue, _Choices(self, 0, self.drop, 0, b"", ()), 0)
        while queue and len(found) < count:
            _, _, choices, index = heappop(queue)
            self._push(queue, choices, index + 1)
            if choices.end(index) + 1 < self.layers:
                self._push(queue, choices.follow(index), 0)
            else:
                found.append(_Candidate.of(choices.edges_after(index), self.grid))
        return found

    def _push(
        self, queue: list[tuple[int, bytes, _Choices, int]], choices: _Choices, index: int
    ) -> None:
        if index < len(choices):
            heappush(queue, (-choices.bound(index), choices.path(index), choices, index))


class _Choices:
    """What can be done with the layer at ``position``: drop a run from it on, or keep it.

    Args:
        left: layers still to drop.
        reached: the sum so far.
        steps: a byte for each layer before: 0 dropped, 1 kept. Bytes compare as sets do.
        edges: the runs so far.
    """

    def __init__(
        self,
        sums: _Sums,
        position: int,
        left: int,
        reached: int,
        steps: bytes,
        edges: tuple[tuple[int, int], ...],
    ) -> None:
        self.sums, self.position, self.left = sums, position, left
        self.reached, self.steps, self.edges = reached, steps, edges
        longest = min(left, sums.layers - position)
        self.lengths = np.arange(longest, -1, -1)  # the longest run drops the most early layers
        ends = position + self.lengths
        following = sums.diagonals[position + left + 1, ends + 1]
        gains = np.where(self.lengths > 0, sums.values[position, ends], 0)
        bounds = np.maximum(reached + gains + following, _NEVER)
        self.order = np.argsort(-bounds, kind="stable")
        self.bounds = bounds
        self.count = int((bounds > _NEVER // 2).sum())

    def __len__(self) -> int:
        return self.count

    def bound(self, index: int) -> int:
        """The largest sum of plans that begin with the choice at ``index``, from the best on."""
        return int(self.bounds[self.order[index]])

    def end(self, index: int) -> int:
        """The layer that stays: the one behind the run, or the one at ``position``."""
        return self.position + int(self.lengths[self.order[index]])

    def path(self, index: int) -> bytes:
        """The layers' bytes up to the next choice."""
        end = self.end(index)
        steps = self.steps + bytes(end - self.position)
        return steps + b"\1" if end < self.sums.layers else steps

    def edges_after(self, index: int) -> tuple[tuple[int, int], ...]:
        """The runs up to the next choice."""
        end = self.end(index)
        return (*self.edges, (self.position, end)) if end > self.position else self.edges

    def follow(self, index: int) -> _Choices:
        """The choices after the one at ``index``."""
        end = self.end(index)
        gain = int(self.sums.values[self.position, end]) if end > self.position else 0
        return _Choices(
            self.sums,
            end + 1,
            self.left - (end - self.position),
            self.reached + gain,
            self.path(index),
            self.edges_after(index),
        )
