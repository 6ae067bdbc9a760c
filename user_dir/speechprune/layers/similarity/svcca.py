"""Singular vector canonical correlation analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprune.errors import UserError
from speechprune.layers.similarity.base import MEASURES
from speechprune.layers.similarity.rows import RowMeasure
from speechprune.layers.similarity.statistics import Moments

#: What the authors' code adds to variances, as a share of the largest.
EPSILON = 1e-10


@MEASURES.register("svcca")
@dataclass(frozen=True)
class SVCCA(RowMeasure):
    """The mean canonical correlation of the directions in which each state varies most.

    Of each state as many singular vectors are kept as make up ``threshold`` of the sum of its
    singular values. Between unlike numbers of vectors, the mean is over the smaller number.

    Source: Raghu et al., NeurIPS 2017 (arXiv 1706.05806), with the constants of Liu et al.,
    Interspeech 2023.
    """

    mode: str = "U"
    threshold: float = 0.99

    # A rotation or a scale of all channels leaves the singular vectors as they are.
    invariances: ClassVar[frozenset[str]] = frozenset({"translation", "scale", "rotation"})

    def check(self) -> None:
        super().check()
        if not 0.0 < self.threshold < 1.0:
            raise UserError(f"the threshold of svcca must lie in (0, 1), not {self.threshold}")

    def of(self, moments: Moments) -> NDArray[np.float64]:
        spectra = [self._spectrum(moments.covariance(i)) for i in range(moments.states)]
        matrix = np.empty((moments.states, moments.states))
        for i, (_, shrinkage) in enumerate(spectra):
            matrix[i, i] = float(shrinkage.mean())
        for i, j, product in moments.products([projection for projection, _ in spectra]):
            matrix[i, j] = matrix[j, i] = _mean_singular_value(product)
        return matrix.clip(0.0, 1.0)

    def _spectrum(self, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """The projection on the directions kept, (C, K), whitened; and the correlation of each with
        itself, less than one by what `EPSILON` adds."""
        squares, vectors = torch.linalg.eigh(covariance)
        squares = squares.flip(0).clamp_min(0.0)
        values = squares.sqrt()
        share = values.cumsum(0) / values.sum()
        count = int((share <= self.threshold).sum()) + 1
        squares, vectors = squares[:count], vectors.flip(1)[:, :count]
        if squares[0] == 0.0:  # a state that does not vary is like no other, and like itself
            return torch.zeros_like(vectors), torch.ones_like(squares)
        enlarged = squares + EPSILON * squares[0]
        return vectors / enlarged.sqrt(), squares / enlarged


def _mean_singular_value(matrix: Tensor) -> float:
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    # Eigenvalues of the square take a quarter of the time, and a mean does not need more digits.
    squares = torch.linalg.eigvalsh(matrix @ matrix.T)
    return float(squares.clamp_min(0.0).sqrt().mean())
