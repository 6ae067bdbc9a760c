"""Distances and their gradients are those of the formulas, computed here in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from speechprune.distillation.loss import Distance, distance

STATES, FRAMES, BATCH, CHANNELS = 3, 7, 2, 5
#: The second utterance has four frames.
PADDING = torch.arange(FRAMES) >= torch.tensor([[FRAMES], [4]])


def draw(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (STATES, FRAMES, BATCH, CHANNELS)
    return list(torch.randn(shape, generator=generator).to(dtype))


def heard(states: list[Tensor], padding: Tensor | None) -> np.ndarray:
    """The frames that count, (states, N, C), in float64."""
    stacked = np.stack([state.detach().double().numpy() for state in states])
    if padding is None:
        return stacked.reshape(STATES, -1, CHANNELS)
    return stacked[:, ~padding.numpy().T]


def by_hand(student: np.ndarray, teacher: np.ndarray) -> tuple[float, float]:
    norms = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    cosines = (student * teacher).sum(-1) / norms
    return np.abs(student - teacher).mean(), cosines.mean()


@pytest.mark.parametrize("padding", [None, PADDING], ids=["whole", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_means_over_states_and_frames(padding: Tensor | None, dtype: torch.dtype) -> None:
    student, teacher = draw(0, dtype), draw(1, dtype)
    found = distance(student, teacher, padding)
    l1, cosine = by_hand(heard(student, padding), heard(teacher, padding))
    assert found.l1.dtype == found.cosine.dtype == torch.float32
    assert found.l1.item() == pytest.approx(l1, rel=1e-6)
    assert found.cosine.item() == pytest.approx(cosine, rel=1e-5, abs=1e-6)
    assert found.loss().item() == pytest.approx(l1 - cosine, rel=1e-5)
    assert found.loss(2.0, 0.5).item() == pytest.approx(2 * l1 - cosine / 2, rel=1e-5)


def test_padding_counts_nowhere() -> None:
    """Neither in the values nor in the gradients, whatever stands there."""
    student, teacher = [state.requires_grad_() for state in draw(0)], draw(1)
    before = distance(student, teacher, PADDING)
    before.loss().backward()
    for state in student:
        assert (state.grad[4:, 1] == 0).all() and (state.grad[:4, 1] != 0).all()
    with torch.no_grad():
        for state in (*student, *teacher):
            state[4:, 1] = 1e6
    after = distance(student, teacher, PADDING)
    assert torch.equal(before.l1, after.l1) and torch.equal(before.cosine, after.cosine)


def test_gradients_are_those_of_the_formulas() -> None:
    """d|s - t| = sign(s - t), and d cos = (t / |t| - cos * s / |s|) / |s|."""
    student, teacher = [state.requires_grad_() for state in draw(0)], draw(1)
    distance(student, teacher, PADDING).loss(0.7, 1.3).backward()
    s, t = heard(student, PADDING), heard(teacher, PADDING)
    sizes, others = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (s, t))
    cosines = (s * t).sum(-1, keepdims=True) / (sizes * others)
    count = s.shape[0] * s.shape[1]
    expected = 0.7 * np.sign(s - t) / (count * CHANNELS)
    expected -= 1.3 * (t / others - cosines * s / sizes) / sizes / count
    found = heard([state.grad for state in student], PADDING)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_equal_states_are_as_near_as_can_be() -> None:
    found = distance(draw(0), draw(0), PADDING)
    assert found.l1 == 0
    assert found.cosine.item() == pytest.approx(1.0, abs=1e-6)


def test_a_batch_of_padding_alone_gives_no_distance() -> None:
    found = distance(draw(0), draw(1), torch.ones(BATCH, FRAMES, dtype=torch.bool))
    assert found == Distance(torch.tensor(0.0), torch.tensor(0.0))
