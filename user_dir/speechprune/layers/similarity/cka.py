"""Centred kernel alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from speechprune.layers.similarity.base import MEASURES
from speechprune.layers.similarity.rows import RowMeasure
from speechprune.layers.similarity.statistics import Moments


@MEASURES.register("cka")
@dataclass(frozen=True)
class CKA(RowMeasure):
    """Linear CKA: |YᵀX|² / (|XᵀX| |YᵀY|) of centred rows, with Frobenius norms.

    Source: Kornblith et al., ICML 2019 (arXiv 1905.00414), equation 6.
    """

    mode: str = "U"

    invariances: ClassVar[frozenset[str]] = frozenset({"translation", "scale", "rotation"})

    def of(self, moments: Moments) -> NDArray[np.float64]:
        norms = [float(moments.covariance(i).norm()) for i in range(moments.states)]
        matrix = np.eye(moments.states)
        for i, j, product in moments.products():
            if norms[i] and norms[j]:  # a state that does not vary is like no other
                matrix[i, j] = matrix[j, i] = float(product.norm()) ** 2 / (norms[i] * norms[j])
            else:
                matrix[i, j] = matrix[j, i] = 0.0
        return matrix.clip(0.0, 1.0)
