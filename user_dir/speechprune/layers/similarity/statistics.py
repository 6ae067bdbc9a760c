"""What is gathered of the hidden states while utterances pass by.

States come one utterance at a time, (S, T, C): S = L + 1 states, T valid frames, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Optional

import torch
from torch import Tensor

from speechprune.errors import UserError


class Statistic(ABC):
    """Something gathered; two are equal when they gather the same."""

    @abstractmethod
    def add(self, states: Tensor) -> None:
        """Take one utterance, float (S, T, C)."""

    @property
    @abstractmethod
    def count(self) -> int:
        """What was gathered so far: utterances, or frames."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """How many numbers stand for one of them."""


class Moments(ABC):
    """Second moments of N rows of S states, centred: what canonical correlations are made of."""

    @property
    @abstractmethod
    def states(self) -> int:
        """S."""

    @abstractmethod
    def covariance(self, state: int) -> Tensor:
        """Sums of products of the channels of one state, float64 (C, C)."""

    @abstractmethod
    def products(
        self, projections: Optional[Sequence[Tensor]] = None
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Sums of products between the channels of each two different states i < j.

        Args:
            projections: for each state a float64 (C, K) that its rows are multiplied by first.

        Yields:
            i, j, and float64 (K_i, K_j), or (C, C) without projections.
        """


@dataclass
class UtteranceMeans(Statistic):
    """The mean over time of each state of each utterance."""

    means: list[Tensor] = field(default_factory=list, compare=False, repr=False)

    def add(self, states: Tensor) -> None:
        self.means.append(states.mean(dim=1, dtype=torch.float64).float().cpu())

    @property
    def count(self) -> int:
        return len(self.means)

    @property
    def channels(self) -> int:
        return self.means[0].shape[1]

    def stacked(self) -> Tensor:
        """All means, float32 (S, N, C)."""
        return torch.stack(self.means, dim=1)

    def moments(self) -> Rows:
        return Rows(self.stacked().double())


@dataclass
class FrameMoments(Statistic, Moments):
    """Second moments of every frame, in memory that does not grow with the audio.

    It takes 4 (S C)² bytes or so: 0.4 GB for a base model, 2.7 GB for 24 layers of 1,024 channels.
    """

    frames: int = field(default=0, compare=False)
    sums: Optional[Tensor] = field(default=None, compare=False, repr=False)
    #: For each state i, the products with the states from i on, (C, (S - i) C).
    blocks: list[Tensor] = field(default_factory=list, compare=False, repr=False)

    def add(self, states: Tensor) -> None:
        count, frames, channels = states.shape
        # Frames in rows, the channels of all states side by side.
        joined = states.double().transpose(0, 1).reshape(frames, count * channels)
        if self.sums is None:
            self.sums = joined.new_zeros(count, channels)
            self.blocks = [joined.new_zeros(channels, (count - i) * channels) for i in range(count)]
        self.frames += frames
        self.sums += joined.sum(dim=0).view(count, channels)
        for i, block in enumerate(self.blocks):
            rest = joined[:, i * channels :]
            block.addmm_(rest[:, :channels].T, rest)

    @property
    def count(self) -> int:
        return self.frames

    @property
    def channels(self) -> int:
        assert self.sums is not None
        return self.sums.shape[1]

    @property
    def states(self) -> int:
        return len(self.blocks)

    def moments(self) -> FrameMoments:
        return self

    def covariance(self, state: int) -> Tensor:
        return self._between(state, state)

    def products(
        self, projections: Optional[Sequence[Tensor]] = None
    ) -> Iterator[tuple[int, int, Tensor]]:
        for i in range(self.states):
            for j in range(i + 1, self.states):
                product = self._between(i, j)
                if projections is not None:
                    product = projections[i].T @ product @ projections[j]
                yield i, j, product

    def _between(self, i: int, j: int) -> Tensor:
        assert self.sums is not None
        begin = (j - i) * self.channels
        raw = self.blocks[i][:, begin : begin + self.channels]
        return raw - torch.outer(self.sums[i], self.sums[j]) / self.frames


class Rows(Moments):
    """Second moments of N rows that are at hand.

    Args:
        values: float64 (S, N, C); taken over.
        centred: whether they are centred.
    """

    def __init__(self, values: Tensor, centred: bool = False) -> None:
        # They take gigabytes at the size of a large model: they are centred where they are.
        self.values = values if centred else values.sub_(values.mean(dim=1, keepdim=True))

    @property
    def states(self) -> int:
        return self.values.shape[0]

    def covariance(self, state: int) -> Tensor:
        rows = self.values[state]
        return rows.T @ rows

    def products(
        self, projections: Optional[Sequence[Tensor]] = None
    ) -> Iterator[tuple[int, int, Tensor]]:
        rows = list(self.values)
        if projections is not None:
            # Projected, the rows are of one size in all directions: half the precision will do, in
            # half the time.
            rows = [(x @ p).float() for x, p in zip(rows, projections)]
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                yield i, j, (rows[i].T @ rows[j]).double()


@dataclass
class SequenceDistances(Statistic):
    """Distances between the utterances of each batch, of which all frames are one long vector.

    Shorter utterances are followed by zeros, as if padded to the longest.
    """

    batch_size: int
    distances: list[Tensor] = field(default_factory=list, compare=False, repr=False)
    _waiting: list[Tensor] = field(default_factory=list, compare=False, repr=False)
    _longest: int = field(default=0, compare=False, repr=False)

    def add(self, states: Tensor) -> None:
        self._waiting.append(states)
        self._longest = max(self._longest, states[0].numel())
        if len(self._waiting) == self.batch_size:
            count = len(states)
            longest = max(each.shape[1] for each in self._waiting)
            vectors = states.new_zeros(count, self.batch_size, longest, states.shape[2])
            for row, each in enumerate(self._waiting):
                vectors[:, row, : each.shape[1]] = each
            # One state at a time: in double precision they are large.
            self.distances.append(torch.stack([distances(x.flatten(1)) for x in vectors]))
            self._waiting.clear()

    @property
    def count(self) -> int:
        return len(self.distances) * self.batch_size + len(self._waiting)

    @property
    def channels(self) -> int:
        return self._longest


def distances(vectors: Tensor) -> Tensor:
    """Euclidean distances between vectors scaled to length 1: (..., N, C) to float64 (..., N, N).

    Source: Liu et al., Interspeech 2023, whose code adds 1e-12 to each square.
    """
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    lengths = unit.square().sum(dim=-1)  # 1, or 0 of a vector of zeros
    squares = lengths[..., :, None] + lengths[..., None, :] - 2.0 * unit @ unit.transpose(-1, -2)
    squares = squares.clamp_min(0.0)
    torch.diagonal(squares, dim1=-2, dim2=-1).zero_()
    return (squares + 1e-12).sqrt()


def gaussian_moments(rows: int, channels: int, seed: int) -> Rows:
    """Moments of two independent states of ``rows`` Gaussian vectors each.

    Of many rows only the triangular factor of their moments is drawn (Bartlett 1933), which takes
    the same time for any number of rows.
    """
    generator = torch.Generator().manual_seed(seed)
    both, freedom = 2 * channels, rows - 1
    if freedom <= both:
        values = torch.randn(rows, both, generator=generator, dtype=torch.float64)
        return Rows(torch.stack(values.split(channels, dim=1)))
    factor = torch.randn(both, both, generator=generator, dtype=torch.float64).triu(1)
    degrees = torch.arange(freedom, freedom - both, -1, dtype=torch.float64)
    squares = 2.0 * torch._standard_gamma(degrees / 2.0, generator=generator)  # chi-squared
    factor += torch.diag(squares.sqrt())
    return Rows(torch.stack(factor.split(channels, dim=1)), centred=True)


def refuse_few(count: int, least: int) -> None:
    """Raise UserError if fewer than ``least`` utterances or frames were gathered."""
    if count < least:
        raise UserError(f"{count} utterances or frames are too few; the measure needs {least}")
