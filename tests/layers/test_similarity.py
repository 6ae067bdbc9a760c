"""Similarity measures against the formulas of their papers, written plainly in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from similarity_formulas import (
    BATCH,
    CHANNELS,
    COUNT,
    STATES,
    batches_of,
    cka_of,
    dc_of,
    dc_unbiased_of,
    directions,
    of_pairs,
    rows_of,
    svcca_of,
    utterances_like_speech,
    values_of,
)
from torch import Tensor

from speechprune.errors import UserError
from speechprune.layers.similarity import MEASURES
from speechprune.layers.similarity.statistics import (
    FrameMoments,
    Rows,
)


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
    assert moments.count == rows.shape[1] and moments.states == STATES
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
