"""The contract of slimming criteria, for every registered one and the one that the pages show."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from readme import readme_snippet
from torch import Tensor

from speechprune.slimming.criteria import CRITERIA, Criterion
from speechprune.slimming.scores import channel_scores, head_scores

HEADS, HEAD_SIZE, WIDTH = 4, 3, 10
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


#: The criterion that the pages show how to add.
SHOWN = "damped_snip"


@pytest.fixture(params=[*CRITERIA.names(), SHOWN])
def criterion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Criterion:
    if request.param == SHOWN:
        parts = {name: CRITERIA.get(name) for name in CRITERIA.names()}
        monkeypatch.setattr(CRITERIA, "_parts", parts)
        module = ModuleType(SHOWN)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(readme_snippet("Add a slimming criterion"), module.__dict__)
    return CRITERIA.build(request.param)


def attention(seed: int) -> list[Tensor]:
    """Weights, or gradients, of query, key, value and out."""
    generator = torch.Generator().manual_seed(seed)
    size = HEADS * HEAD_SIZE
    shapes = [(size, WIDTH)] * 3 + [(WIDTH, size)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def scores(
    criterion: Criterion, weights: list[Tensor], gradients: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Of heads, and of the columns of out as if they were channels."""
    heads = head_scores(criterion, weights, gradients, HEADS)
    return heads, channel_scores(criterion, weights[3], gradients[3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_are_float32_and_not_negative(criterion: Criterion, dtype: torch.dtype) -> None:
    weights = [tensor.to(dtype) for tensor in attention(1)]
    gradients = [tensor.to(dtype) for tensor in attention(2)]
    entries = criterion.entries(weights[0], gradients[0])
    assert entries.dtype == torch.float32 and entries.shape == weights[0].shape
    heads, channels = scores(criterion, weights, gradients)
    assert heads.shape == (HEADS,) and channels.shape == (HEADS * HEAD_SIZE,)
    for found in (heads, channels):
        assert found.dtype == torch.float32 and (found >= 0).all() and found.isfinite().all()


def test_entries_are_a_tensor_of_their_own(criterion: Criterion) -> None:
    weight, gradient = attention(1)[0], attention(2)[0]
    copies = weight.clone(), gradient.clone()
    criterion.entries(weight, gradient).zero_()
    assert weight.equal(copies[0]) and gradient.equal(copies[1])


def test_entries_are_in_proportion_to_gradients(criterion: Criterion) -> None:
    """The scale of a loss in half precision is taken off scores."""
    weight, gradient = attention(1)[0], attention(2)[0]
    factor = 8.0 if criterion.needs_gradient else 1.0
    scaled = criterion.entries(weight, 8.0 * gradient)
    assert scaled.equal(factor * criterion.entries(weight, gradient))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mixed", [False, True], ids=["both", "gradients alone"])
def test_half_precision_is_close(criterion: Criterion, dtype: torch.dtype, mixed: bool) -> None:
    weights, gradients = attention(1), attention(2)
    exact = scores(criterion, weights, gradients)
    narrow = [tensor.to(dtype) for tensor in gradients]
    found = scores(
        criterion, weights if mixed else [tensor.to(dtype) for tensor in weights], narrow
    )
    for half, full in zip(found, exact):
        torch.testing.assert_close(half, full, rtol=4 * torch.finfo(dtype).eps, atol=0.0)


def test_permuted_heads_have_permuted_scores(criterion: Criterion) -> None:
    order = torch.tensor([2, 0, 3, 1])
    units = torch.arange(HEADS * HEAD_SIZE).view(HEADS, HEAD_SIZE)[order].flatten()

    def permuted(tensors: list[Tensor]) -> list[Tensor]:
        return [*(tensor[units] for tensor in tensors[:3]), tensors[3][:, units]]

    weights, gradients = attention(1), attention(2)
    heads, channels = scores(criterion, weights, gradients)
    # Not to the bit: memory is laid out in another way, and sums follow it.
    moved_heads, moved_channels = scores(criterion, permuted(weights), permuted(gradients))
    torch.testing.assert_close(moved_heads, heads[order])
    torch.testing.assert_close(moved_channels, channels[units])
    assert heads.unique().numel() == HEADS


def test_no_gradient_no_score(criterion: Criterion) -> None:
    weights = attention(1)
    found = scores(criterion, weights, [torch.zeros_like(tensor) for tensor in weights])
    assert all(bool(each.any()) != criterion.needs_gradient for each in found)


def test_signs_do_not_matter(criterion: Criterion) -> None:
    """Nothing cancels between the entries of a unit."""
    weights, gradients = attention(1), attention(2)
    flipped = scores(criterion, [w * -1 for w in weights], [g.abs() for g in gradients])
    assert all(map(torch.equal, flipped, scores(criterion, weights, gradients)))


def test_decay_is_a_momentum(criterion: Criterion) -> None:
    assert 0.0 <= criterion.decay < 1.0
