"""Similarity matrices to test with, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from speechprune.errors import UserError
from speechprune.layers.matrix import SimilarityMatrix


def values(states: int = 5, seed: int = 0) -> NDArray:
    """Symmetric, from 0 to 1."""
    half = np.triu(np.random.default_rng(seed).uniform(size=(states, states)))
    return half + np.triu(half, 1).T


def some_matrix() -> SimilarityMatrix:
    """One whose measure, floor and provenance are known."""
    provenance = {"checkpoint": "base.pt ∅", "settings": {"threshold": 0.99}, "utterances": 96}
    return SimilarityMatrix(values(), "svcca", 0.24, provenance)


def refused(path: Path, message: str = "") -> None:
    with pytest.raises(UserError, match=message) as refusal:
        SimilarityMatrix.load(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
