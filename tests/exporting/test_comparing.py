"""Outputs are compared by their largest difference, of which none is overlooked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from checkpoints import refusal
from torch import Tensor

from speechprune.exporting.comparing import (
    LENGTHS,
    agreement,
    heard,
    largest_difference,
    noise,
    refuse_difference,
)


def means(audio: Sequence[np.ndarray]) -> list[Tensor]:
    """A frame for each 320 samples."""
    return [torch.from_numpy(a[: len(a) // 320 * 320].reshape(-1, 320).mean(1)) for a in audio]


def test_lengths_have_odd_and_even_counts_of_frames() -> None:
    counts = {(length - 400) // 320 % 2 for length in LENGTHS}
    assert counts == {0, 1} and max(LENGTHS) > 2 * 16000


def test_noise_is_the_same_each_time() -> None:
    assert all(np.array_equal(a, b) for a, b in zip(noise(), noise()))
    assert [each.dtype for each in noise((5,))] == [np.float32]


def test_noise_is_loud_and_quiet() -> None:
    """By 60 dB, in a block of 10 ms each."""
    (samples,) = noise((16000,))
    loudness = np.square(samples.reshape(-1, 160)).mean(1)
    assert 5e5 < loudness.max() / loudness.min() < 5e6
    assert 50 < loudness.max() < 200


def test_the_largest_of_all_recordings_is_found() -> None:
    def other(audio: Sequence[np.ndarray]) -> list[Tensor]:
        found = means(audio)
        for a, frames in zip(audio, found):
            if len(a) == LENGTHS[2]:
                frames[3] += 0.25
        return found

    ours = heard(means)
    assert largest_difference(ours, heard(means)) == 0.0
    assert largest_difference(ours, heard(other)) == pytest.approx(0.25)
    assert largest_difference(heard(means, LENGTHS[:2]), heard(other, LENGTHS[:2])) == 0.0


def test_recordings_are_alone_or_together() -> None:
    sizes: list[int] = []

    def hear(audio: Sequence[np.ndarray]) -> list[Tensor]:
        sizes.append(len(audio))
        return means(audio)

    assert len(heard(hear, (400, 800))) == len(heard(hear, (400, 800), together=True)) == 2
    assert sizes == [1, 1, 2]


def test_frames_whose_best_symbol_is_the_same_are_counted() -> None:
    ours = [torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])]
    theirs = [torch.tensor([[9.0, 2.0], [5.0, 1.0]]), torch.tensor([[0.0, 7.0], [0.0, 1.0]])]
    assert agreement(ours, theirs, blank=2) == 0.75
    # Of the three frames that are not blank in both.
    assert agreement(ours, theirs, blank=0) == pytest.approx(2 / 3)
    assert agreement(ours[1:], theirs[1:], blank=1) == 1.0


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.full((2,), torch.nan)])
def test_other_shapes_and_nan_differ_without_bound(wrong: Tensor) -> None:
    found = largest_difference([torch.zeros(2)], [wrong])
    assert found == math.inf
    assert "in their shapes" in refusal(refuse_difference, "a.pt", found, 1e-4, what="the file")


def test_what_differs_too_much_is_refused() -> None:
    refuse_difference("a.pt", 1e-4, 1e-4, what="the file")
    message = refusal(refuse_difference, "a.pt", 2e-4, 1e-4, what="the file")
    assert message.startswith("a.pt: ") and "2.0e-04" in message and "1e-04" in message
