"""Distance correlation, as published and corrected for its bias."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprune.errors import UserError
from speechprune.layers.similarity.base import MEASURES, Measure
from speechprune.layers.similarity.statistics import (
    SequenceDistances,
    Statistic,
    UtteranceMeans,
    distances,
    refuse_few,
)

#: Batches of independent data that a floor is the mean of.
_FLOOR_BATCHES = 5


@dataclass(frozen=True)
class DistanceMeasure(Measure):
    """A measure of distances between the utterances of a batch; the mean over batches.

    Attributes:
        mode: "mean", an utterance is its mean over time; "seq", the vector of all its frames.
        batch_size: N, utterances per batch; those that fill no batch are left out.
    """

    mode: str = "mean"
    batch_size: int = 32

    # Vectors are scaled to length 1 each; a translation changes their directions.
    invariances: ClassVar[frozenset[str]] = frozenset({"scale", "rotation"})

    @abstractmethod
    def of(self, distances: Tensor) -> Tensor:
        """The similarity of each pair of states, (S, S), from float64 (S, N, N)."""

    @property
    def least(self) -> int:
        return self.batch_size

    def statistic(self) -> Statistic:
        if self.mode not in ("mean", "seq"):
            raise UserError(f"mode {self.mode!r} is neither mean nor seq")
        if self.batch_size < 4:
            raise UserError(f"batches of {self.batch_size} utterances are too small; use 4 or more")
        return SequenceDistances(self.batch_size) if self.mode == "seq" else UtteranceMeans()

    def matrix(self, statistic: Statistic) -> NDArray[np.float64]:
        refuse_few(statistic.count, self.least)
        found = [self.of(batch) for batch in self._batches(statistic)]
        matrix: NDArray[np.float64] = torch.stack(found).mean(dim=0).cpu().numpy()
        # An unbiased estimate of nothing is as often below zero as above.
        return matrix.clip(0.0, 1.0)

    def used(self, statistic: Statistic) -> int:
        return statistic.count // self.batch_size * self.batch_size

    def floor(self, statistic: Statistic, seed: int = 0) -> float:
        generator = torch.Generator().manual_seed(seed)
        size = self.batch_size, statistic.channels
        found = []
        for _ in range(_FLOOR_BATCHES):
            both = [torch.randn(size, generator=generator) for _ in range(2)]
            found.append(self.of(torch.stack([distances(x) for x in both]))[0, 1])
        return float(torch.stack(found).mean().clamp(0.0, 1.0))

    def _batches(self, statistic: Statistic) -> list[Tensor]:
        if isinstance(statistic, SequenceDistances):
            return statistic.distances
        assert isinstance(statistic, UtteranceMeans)
        batches = statistic.stacked().split(self.batch_size, dim=1)
        return [distances(batch) for batch in batches if batch.shape[1] == self.batch_size]


@MEASURES.register("dc")
@dataclass(frozen=True)
class DistanceCorrelation(DistanceMeasure):
    """<A, B> / √(<A, A> <B, B> + 1e-9) of doubly centred distances, with means over the entries.

    It is biased towards 1 for small batches: values of different batch sizes do not compare.

    Source: Liu et al., Interspeech 2023 (arXiv 2309.11768), after Zhen et al., ECCV 2022.
    """

    @property
    def lowers_floor(self) -> str:
        return "larger batches, or dc-unbiased,"

    def of(self, distances: Tensor) -> Tensor:
        rows = distances.mean(dim=2, keepdim=True)
        centred = distances - rows - rows.transpose(1, 2) + rows.mean(dim=1, keepdim=True)
        flat = centred.flatten(1)
        products = flat @ flat.T / flat.shape[1]
        own = products.diagonal()
        return products / (own[:, None] * own + 1e-9).sqrt()


@MEASURES.register("dc-unbiased")
@dataclass(frozen=True)
class UnbiasedDistanceCorrelation(DistanceMeasure):
    """The same of U-centred distances, which is about 0 for independent data of any batch size.

    Source: Székely and Rizzo, *Partial distance correlation with methods for dissimilarities*,
    Annals of Statistics 2014, definitions 2 and 3.
    """

    def of(self, distances: Tensor) -> Tensor:
        count = distances.shape[1]
        distances = distances - torch.diag_embed(distances.diagonal(dim1=1, dim2=2))
        rows = distances.sum(dim=2, keepdim=True) / (count - 2)
        total = distances.sum(dim=(1, 2), keepdim=True) / ((count - 1) * (count - 2))
        centred = distances - rows - rows.transpose(1, 2) + total
        others = 1.0 - torch.eye(count, dtype=distances.dtype, device=distances.device)
        flat = (centred * others).flatten(1)
        products = flat @ flat.T
        own = products.diagonal()
        largest = (own[:, None] * own).sqrt()
        # States that do not vary at all are alike to nothing.
        return torch.where(largest > 0, products / largest, 0.0)
