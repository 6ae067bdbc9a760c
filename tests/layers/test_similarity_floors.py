"""What measures give for independent data, by their floors and by sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from similarity_formulas import (
    BATCH,
    CHANNELS,
    COUNT,
    utterances_like_speech,
    values_of,
)

from speechprune.layers.similarity import MEASURES, gather
from speechprune.layers.similarity.statistics import (
    FrameMoments,
    Moments,
    Rows,
    UtteranceMeans,
    gaussian_moments,
)


def independent(states: int, count: int, channels: int) -> UtteranceMeans:
    """A statistic of a size; what is in it does not matter."""
    statistic = UtteranceMeans()
    for _ in range(count):
        statistic.add(torch.zeros(states, 1, channels))
    return statistic


@pytest.mark.parametrize(
    "size, floor, digits", [(4, 0.9991, 2e-4), (32, 0.990, 1e-3), (256, 0.924, 1e-3)]
)
def test_the_known_floors_of_distance_correlation(size: int, floor: float, digits: float) -> None:
    statistic = independent(2, size, 768)
    measure = MEASURES.build("dc", batch_size=size)
    assert measure.floor(statistic) == pytest.approx(floor, abs=digits)
    draw = torch.Generator().manual_seed(1)
    fresh = [torch.randn(2, 1, 768, generator=draw) for _ in range(2 * size)]
    assert values_of(measure, fresh)[0, 1] == pytest.approx(floor, abs=3 * digits)


@pytest.mark.parametrize("size", [4, 32, 256])
def test_without_bias_independent_data_are_unlike_at_any_batch_size(size: int) -> None:
    """0 within what the mean of some batches scatters: 1 / size or so each."""
    measure = MEASURES.build("dc-unbiased", batch_size=size)
    floors = [measure.floor(independent(2, 1, 768), seed=seed) for seed in range(6)]
    assert 0.0 <= min(floors) and np.mean(floors) < 1.2 / size


def test_the_known_floor_of_svcca() -> None:
    """768 channels, 9600 utterances."""
    statistic = FrameMoments(frames=9600, sums=torch.zeros(1, 768, dtype=torch.float64))
    statistic.blocks = [torch.zeros(768, 768, dtype=torch.float64)]
    assert MEASURES.build("svcca", mode="T").floor(statistic) == pytest.approx(0.24, abs=0.005)


def test_floors_of_frames_and_of_utterances_are_of_their_numbers() -> None:
    utterances = utterances_like_speech()
    frames = sum(states.shape[1] for states in utterances)
    for name in ("svcca", "cka"):
        for mode, rows in (("U", COUNT), ("T", frames)):
            measure = MEASURES.build(name, mode=mode)
            (statistic,) = gather(utterances, [measure])
            expected = float(measure.of(gaussian_moments(rows, CHANNELS, 3))[0, 1])
            assert measure.floor(statistic, seed=3) == expected


def test_the_floor_of_sequences_is_of_their_length() -> None:
    """Longer vectors are further from each other, and more alike by their distances."""
    measure = MEASURES.build("dc", mode="seq", batch_size=BATCH)
    floors = []
    for frames in (1, 8, 64):
        states = [torch.ones(2, frames, CHANNELS) for _ in range(BATCH)]
        floors.append(measure.floor(gather(states, [measure])[0]))
        (vectors,) = gather([torch.ones(2, 1, frames * CHANNELS)] * BATCH, [measure])
        assert measure.floor(vectors) == floors[-1]
    assert floors == sorted(floors) and floors[-1] - floors[0] > 0.02


def second_moments(moments: Moments) -> NDArray[np.float64]:
    """Of two states side by side, (2C, 2C)."""
    ((_, _, product),) = moments.products()
    first, second = moments.covariance(0), moments.covariance(1)
    return torch.cat([torch.cat([first, product], 1), torch.cat([product.T, second], 1)]).numpy()


@pytest.mark.parametrize("rows", [5, 7, 8, 20])
def test_second_moments_of_independent_rows_are_wishart(rows: int) -> None:
    """Drawn directly and, of more than 7 rows, by their triangular factor.

    Of W with n degrees of freedom, entries have means n and 0 on and off the diagonal, variances 2n
    and n, and no two different ones are correlated.
    """
    channels, draws, n = 3, 1500, rows - 1
    found = [second_moments(gaussian_moments(rows, channels, seed)) for seed in range(draws)]
    upper = np.triu_indices(2 * channels)
    assert all(np.array_equal(w, w.T) for w in found)
    entries = np.array([w[upper] for w in found])
    is_diagonal = upper[0] == upper[1]
    error = np.sqrt(np.where(is_diagonal, 2 * n, n) / draws)
    assert (np.abs(entries.mean(axis=0) - n * is_diagonal) < 5 * error).all()
    variances = entries.var(axis=0) / np.where(is_diagonal, 2 * n, n)
    assert (np.abs(variances - 1) < 0.3).all()
    correlations = np.corrcoef(entries.T) - np.eye(len(is_diagonal))
    assert np.abs(correlations).max() < 5.5 / np.sqrt(draws)


@pytest.mark.parametrize("name", ["svcca", "cka"])
def test_floors_by_the_factor_are_those_of_direct_sampling(name: str) -> None:
    rows, channels, draws = 60, 8, 200
    measure = MEASURES.build(name)
    generator = np.random.default_rng(0)
    direct = [
        measure.of(Rows(torch.from_numpy(generator.normal(size=(2, rows, channels)))))[0, 1]
        for _ in range(draws)
    ]
    statistic = independent(1, rows, channels)
    floors = [measure.floor(statistic, seed=seed) for seed in range(draws)]
    error = np.sqrt((np.var(direct) + np.var(floors)) / draws)
    assert abs(np.mean(direct) - np.mean(floors)) < 4 * error
    assert 0.8 < np.std(direct) / np.std(floors) < 1.25
