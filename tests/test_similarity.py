"""Similarity measures against the formulas of their papers, written plainly in numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprune.errors import UserError
from speechprune.layers.similarity import MEASURES, Measure, gather
from speechprune.layers.similarity.statistics import (
    FrameMoments,
    Moments,
    Rows,
    SequenceDistances,
    UtteranceMeans,
    gaussian_moments,
)

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


@pytest.mark.parametrize("mode", ["U", "T"])
@pytest.mark.parametrize("threshold", [0.99, 0.95, 0.8, 0.3])
@pytest.mark.parametrize("offset", [0.5, 100.0])
def test_svcca(mode: str, threshold: float, offset: float) -> None:
    utterances = utterances_like_speech(offset=offset)
    rows = rows_of(mode, utterances)
    spectra = np.linalg.svd(rows - rows.mean(axis=1, keepdims=True), compute_uv=False)
    kept = [directions(s, threshold) for s in spectra]
    # States keep unlike numbers of directions, and others than by shares of variance.
    assert threshold < 0.5 or len(set(kept)) > 1
    assert kept != [directions(s**2, threshold) for s in spectra]
    found = values_of(MEASURES.build("svcca", mode=mode, threshold=threshold), utterances)
    expected = of_pairs(rows, svcca_of(threshold))
    assert np.allclose(found, expected, atol=1e-6)
    assert np.ptp(found) > 0.05


@pytest.mark.parametrize("mode", ["U", "T"])
@pytest.mark.parametrize("offset", [0.5, 100.0])
def test_cka(mode: str, offset: float) -> None:
    utterances = utterances_like_speech(offset=offset)
    found = values_of(MEASURES.build("cka", mode=mode), utterances)
    assert np.allclose(found, of_pairs(rows_of(mode, utterances), cka_of), atol=1e-9)
    assert np.ptp(found) > 0.05


def test_fewer_utterances_than_channels() -> None:
    utterances = utterances_like_speech(count=7)
    rows = rows_of("U", utterances)
    found = values_of(MEASURES.build("svcca"), utterances)
    assert np.allclose(found, of_pairs(rows, svcca_of(0.99)), atol=1e-6)
    found = values_of(MEASURES.build("cka"), utterances)
    assert np.allclose(found, of_pairs(rows, cka_of), atol=1e-9)


@pytest.mark.parametrize("size", [4, BATCH, 11, COUNT])
@pytest.mark.parametrize("mode", ["mean", "seq"])
@pytest.mark.parametrize("name, formula", [("dc", dc_of), ("dc-unbiased", dc_unbiased_of)])
def test_distance_correlation(name: str, formula: Any, mode: str, size: int) -> None:
    utterances = utterances_like_speech()
    batches = batches_of(mode, utterances, size)
    assert len(batches) == COUNT // size and (COUNT % size or size == COUNT)
    expected = np.mean([of_pairs(batch, formula) for batch in batches], axis=0)
    measure = MEASURES.build(name, mode=mode, batch_size=size)
    assert np.allclose(values_of(measure, utterances), expected.clip(0.0, 1.0), atol=1e-7)
    assert np.ptp(expected) > 0.03


@pytest.mark.parametrize("name, formula", [("dc", dc_of), ("dc-unbiased", dc_unbiased_of)])
@pytest.mark.parametrize("mode", ["mean", "seq"])
def test_utterances_of_zeros(name: str, formula: Any, mode: str) -> None:
    """A vector of length 0 stays where it is: from another of them it has no distance."""
    utterances = utterances_like_speech(count=BATCH)
    for states in utterances[:3]:
        states[1] = 0.0
    (batch,) = batches_of(mode, utterances, BATCH)
    measure = MEASURES.build(name, mode=mode, batch_size=BATCH)
    expected = of_pairs(batch, formula).clip(0.0, 1.0)
    assert np.allclose(values_of(measure, utterances), expected, atol=1e-7)


@pytest.mark.parametrize("name", ["dc", "dc-unbiased"])
def test_utterances_that_fill_no_batch_are_left_out(name: str) -> None:
    utterances = utterances_like_speech()
    for mode in ("mean", "seq"):
        measure = MEASURES.build(name, mode=mode, batch_size=BATCH)
        whole = values_of(measure, utterances[: 5 * BATCH])
        assert np.array_equal(values_of(measure, utterances), whole)
        with pytest.raises(UserError, match=f"{BATCH - 1} .* too few.* {BATCH}$"):
            values_of(measure, utterances[: BATCH - 1])


@pytest.mark.parametrize("name", ["svcca", "cka"])
def test_frames_are_rows_whatever_utterance_they_are_of(name: str) -> None:
    """T on utterances is U on utterances of one frame each, and T on one long utterance."""
    utterances = utterances_like_speech()
    frames = [frame[:, None] for states in utterances for frame in states.unbind(dim=1)]
    found = values_of(MEASURES.build(name, mode="T"), utterances)
    by_frame = values_of(MEASURES.build(name, mode="U"), frames)
    at_once = values_of(MEASURES.build(name, mode="T"), [torch.cat(utterances, dim=1)])
    assert np.allclose(found, by_frame, atol=1e-6)
    assert np.allclose(found, at_once, atol=1e-9)


def test_moments_of_frames_are_those_of_all_frames_at_once() -> None:
    utterances = utterances_like_speech(offset=30.0)
    moments, rows = FrameMoments(), rows_of("T", utterances)
    for states in utterances:
        moments.add(states)
    rows = rows - rows.mean(axis=1, keepdims=True)
    assert moments.rows == moments.count == rows.shape[1] and moments.states == STATES
    projections = [torch.randn(CHANNELS, 2 + i, dtype=torch.float64) for i in range(STATES)]
    for each in (moments, Rows(torch.from_numpy(rows + 5.0))):
        for i in range(STATES):
            assert np.allclose(each.covariance(i), rows[i].T @ rows[i], atol=1e-8)
        seen = []
        for (i, j, product), (_, _, projected) in zip(each.products(), each.products(projections)):
            expected = rows[i].T @ rows[j]
            assert np.allclose(product, expected, rtol=1e-5, atol=1e-4)
            expected = projections[i].numpy().T @ expected @ projections[j].numpy()
            assert np.allclose(projected, expected, rtol=1e-4, atol=1e-2)
            seen.append((i, j))
        assert seen == [(i, j) for i in range(STATES) for j in range(i + 1, STATES)]


def test_memory_for_frames_does_not_grow() -> None:
    def size(moments: FrameMoments) -> int:
        tensors = [each for each in vars(moments).values() if isinstance(each, Tensor)]
        return sum(each.numel() for each in (*tensors, *moments.blocks))

    utterances = utterances_like_speech()
    moments = FrameMoments()
    moments.add(utterances[0])
    before = size(moments)
    for states in utterances:
        moments.add(states)
    assert size(moments) == before > 0


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


def test_measures_of_the_same_rows_share_what_is_gathered() -> None:
    built = {
        "svcca": MEASURES.build("svcca"),
        "svcca 0.9": MEASURES.build("svcca", threshold=0.9),
        "svcca T": MEASURES.build("svcca", mode="T"),
        "cka": MEASURES.build("cka"),
        "cka T": MEASURES.build("cka", mode="T"),
        "dc": MEASURES.build("dc", batch_size=BATCH),
        "dc 4": MEASURES.build("dc", batch_size=4),
        "dc seq": MEASURES.build("dc", mode="seq", batch_size=BATCH),
        "dc seq 4": MEASURES.build("dc", mode="seq", batch_size=4),
        "dc-unbiased": MEASURES.build("dc-unbiased", batch_size=BATCH),
        "dc-unbiased seq": MEASURES.build("dc-unbiased", mode="seq", batch_size=BATCH),
    }
    utterances = utterances_like_speech()
    found = dict(zip(built, gather(iter(utterances), list(built.values()))))
    groups = [
        {"svcca", "svcca 0.9", "cka", "dc", "dc 4", "dc-unbiased"},
        {"svcca T", "cka T"},
        {"dc seq", "dc-unbiased seq"},
        {"dc seq 4"},
    ]
    assert len({id(statistic) for statistic in found.values()}) == len(groups)
    for group in groups:
        assert len({id(found[name]) for name in group}) == 1
    frames = sum(states.shape[1] for states in utterances)
    for name, statistic in found.items():
        assert statistic.count == (frames if name.endswith(" T") else COUNT), name
    # Together they are what they are alone.
    for name, measure in built.items():
        assert np.array_equal(measure.matrix(found[name]), values_of(measure, utterances)), name


def test_what_is_shared_is_gathered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    added, add = [], UtteranceMeans.add

    def add_and_note(statistic: UtteranceMeans, states: Tensor) -> None:
        added.append(states)
        add(statistic, states)

    monkeypatch.setattr(UtteranceMeans, "add", add_and_note)
    utterances = utterances_like_speech(count=4)
    gather(utterances, [MEASURES.build(name) for name in ("svcca", "cka", "dc", "dc-unbiased")])
    assert [id(states) for states in added] == [id(states) for states in utterances]


def test_utterances_pass_by_once_and_counts_add_up() -> None:
    measures = [MEASURES.build("cka"), MEASURES.build("cka", mode="T")]
    measures.append(MEASURES.build("dc", mode="seq", batch_size=4))
    utterances, passed = utterances_like_speech(count=6), []

    def one_by_one() -> Iterator[Tensor]:
        for states in utterances:
            passed.append(states.shape[1])
            yield states

    first = gather(one_by_one(), measures)
    assert len(passed) == 6
    assert [statistic.count for statistic in first] == [6, sum(passed), 6]
    for statistic in first:
        before = statistic.count
        statistic.add(utterances[0])
        added = passed[0] if isinstance(statistic, FrameMoments) else 1
        assert statistic.count == before + added
    # Another pass begins anew.
    assert [statistic.count for statistic in gather([], measures)] == [0, 0, 0]
    assert gather(utterances, []) == []


def test_statistics_are_equal_when_they_gather_the_same() -> None:
    assert UtteranceMeans() == UtteranceMeans() and FrameMoments() == FrameMoments()
    assert UtteranceMeans() != FrameMoments()
    assert SequenceDistances(4) == SequenceDistances(4) != SequenceDistances(8)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("svcca", {"threshold": 0.0}, r"threshold.*\(0, 1\), not 0.0"),
        ("svcca", {"threshold": 1.0}, r"threshold.*\(0, 1\), not 1.0"),
        ("svcca", {"threshold": -0.5}, r"threshold.*\(0, 1\), not -0.5"),
        ("svcca", {"threshold": 99}, r"threshold.*\(0, 1\), not 99"),
        ("svcca", {"threshold": float("nan")}, r"threshold.*\(0, 1\), not nan"),
        ("svcca", {"mode": "mean"}, "mode 'mean' is neither U .* nor T"),
        ("cka", {"mode": "seq"}, "mode 'seq' is neither U .* nor T"),
        ("dc", {"mode": "U"}, "mode 'U' is neither mean nor seq"),
        ("dc", {"batch_size": 3}, "batches of 3 utterances"),
        ("dc", {"batch_size": 0}, "batches of 0 utterances"),
        ("dc-unbiased", {"batch_size": -4}, "batches of -4 utterances"),
        ("dc-unbiased", {"mode": "T"}, "mode 'T' is neither mean nor seq"),
        ("svcca", {"treshold": 0.9}, "'treshold'; did you mean 'threshold'"),
        ("cca", {}, "unknown similarity measure 'cca'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        gather([], [MEASURES.build(name, **settings)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", ["U", "T"])
def test_states_that_are_not_finite_are_told(mode: str, value: float) -> None:
    """Or stay so in the values, which a SimilarityMatrix refuses; but no traceback of an SVD."""
    utterances = utterances_like_speech()
    utterances[3][1, 0, 0] = value
    for name in ("svcca", "cka"):
        try:
            found = values_of(MEASURES.build(name, mode=mode), utterances)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert not np.isfinite(found).all()
