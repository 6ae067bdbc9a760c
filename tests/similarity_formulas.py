"""The formulas of similarity measures, written plainly in numpy, and utterances to put in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprune.layers.similarity import Measure, gather

CHANNELS = 12
STATES = 5
BATCH = 8
#: No multiple of a batch: the last 3 are left out where batches are compared.
COUNT = 5 * BATCH + 3


def utterances_like_speech(count: int = COUNT, seed: int = 0, offset: float = 0.5) -> list[Tensor]:
    """Utterances of unequal lengths; each state is made of the one before, in fewer directions."""
    draw = torch.Generator().manual_seed(seed)
    options = {"generator": draw, "dtype": torch.float64}
    spread = torch.logspace(0.5, -1.5, CHANNELS, dtype=torch.float64)
    maps = torch.randn(STATES - 1, CHANNELS, CHANNELS, **options) / CHANNELS**0.5
    found = []
    for _ in range(count):
        frames = int(torch.randint(2, 9, (), generator=draw))
        mean, noise = torch.randn(CHANNELS, **options), torch.randn(frames, CHANNELS, **options)
        states = [(mean + noise) * spread + offset]
        for depth, mixing in enumerate(maps):
            own = 0.3 * torch.randn(frames, CHANNELS, **options) * spread**depth
            states.append(states[-1] + states[-1].tanh() @ mixing + own)
        found.append(torch.stack(states))
    return found


def values_of(measure: Measure, utterances: Sequence[Tensor]) -> NDArray[np.float64]:
    (statistic,) = gather(utterances, [measure])
    return measure.matrix(statistic)


def rows_of(mode: str, utterances: Sequence[Tensor]) -> NDArray[np.float64]:
    """What each state's rows are, (S, N, C)."""
    arrays = [states.double().numpy() for states in utterances]
    if mode == "U":
        return np.stack([array.mean(axis=1) for array in arrays], axis=1)
    return np.concatenate(arrays, axis=1)


def of_pairs(rows: Any, formula: Callable[[NDArray, NDArray], float]) -> NDArray[np.float64]:
    return np.array([[formula(x, y) for y in rows] for x in rows])


def directions(values: NDArray, threshold: float) -> int:
    """The fewest of the largest values that make up more than ``threshold`` of their sum."""
    sizes = range(1, len(values) + 1)
    return next(k for k in sizes if values[:k].sum() / values.sum() > threshold)


def svcca_of(threshold: float) -> Callable[[NDArray, NDArray], float]:
    """As the original: both states of a pair reduced anew, then `cca_core` of google/svcca."""

    def reduced(x: NDArray) -> NDArray:
        x = x - x.mean(axis=0)
        u, s, _ = np.linalg.svd(x, full_matrices=False)
        k = directions(s, threshold)
        return u[:, :k] * s[:k]

    def root(matrix: NDArray) -> NDArray:
        w, v = np.linalg.eigh(matrix)
        return (v * np.sqrt(np.maximum(w, 0))) @ v.T

    def svcca(x: NDArray, y: NDArray, epsilon: float = 1e-10) -> float:
        x, y = reduced(x), reduced(y)
        k = x.shape[1]
        covariance = np.cov(x.T, y.T)
        xx, xy, yy = covariance[:k, :k], covariance[:k, k:], covariance[k:, k:]
        xmax, ymax = np.abs(xx).max(), np.abs(yy).max()
        xx, yy, xy = xx / xmax, yy / ymax, xy / np.sqrt(xmax * ymax)
        is_large = np.abs(np.diag(xx)) >= epsilon, np.abs(np.diag(yy)) >= epsilon
        assert is_large[0].all() and is_large[1].all()
        xx = np.linalg.pinv(xx + epsilon * np.eye(len(xx)))
        yy = np.linalg.pinv(yy + epsilon * np.eye(len(yy)))
        coefficients = np.linalg.svd(root(xx) @ xy @ root(yy), compute_uv=False)
        return float(np.abs(coefficients).mean())

    return svcca


def cka_of(x: NDArray, y: NDArray) -> float:
    """By Gram matrices: the other side of equation 5 of Kornblith et al."""
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n
    k, m = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def distances_of(x: NDArray) -> NDArray:
    lengths = np.sqrt((x**2).sum(axis=1, keepdims=True))
    x = x / np.maximum(lengths, 1e-12)
    differences = x[:, None] - x[None]
    return np.sqrt((differences**2).sum(axis=2) + 1e-12)


def dc_of(x: NDArray, y: NDArray) -> float:
    def centred(x: NDArray) -> NDArray:
        d = distances_of(x)
        return d - d.mean(axis=0, keepdims=True) - d.mean(axis=1, keepdims=True) + d.mean()

    a, b = centred(x), centred(y)
    return float((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean() + 1e-9))


def dc_unbiased_of(x: NDArray, y: NDArray) -> float:
    """Definitions 2 and 3 of Székely and Rizzo, entry by entry."""
    n = len(x)

    def centred(x: NDArray) -> NDArray:
        a = distances_of(x)
        np.fill_diagonal(a, 0.0)
        found = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                if i != j:
                    found[i, j] = a[i, j] - a[i].sum() / (n - 2) - a[:, j].sum() / (n - 2)
                    found[i, j] += a.sum() / ((n - 1) * (n - 2))
        return found

    def product(a: NDArray, b: NDArray) -> float:
        return float((a * b).sum() / (n * (n - 3)))

    a, b = centred(x), centred(y)
    return product(a, b) / np.sqrt(product(a, a) * product(b, b))


def batches_of(mode: str, utterances: Sequence[Tensor], size: int) -> list[NDArray]:
    """The vectors of the utterances of each whole batch, (S, N, C) or (S, N, T·C)."""
    found = []
    for start in range(0, len(utterances) - size + 1, size):
        batch = [states.double().numpy() for states in utterances[start : start + size]]
        if mode == "mean":
            found.append(np.stack([states.mean(axis=1) for states in batch], axis=1))
            continue
        longest = max(states.shape[1] for states in batch)
        vectors = np.zeros((len(batch[0]), size, longest, batch[0].shape[2]))
        for number, states in enumerate(batch):
            for frame in range(states.shape[1]):
                vectors[:, number, frame] = states[:, frame]
        found.append(vectors.reshape(len(vectors), size, -1))
    return found
