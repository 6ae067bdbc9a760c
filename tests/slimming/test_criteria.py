"""Scores of heads and channels against Intel Neural Compressor's, and what they cost."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from slimming_reference import SlimmingReference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from speechprune.errors import UserError
from speechprune.slimming.criteria import CRITERIA, Criterion
from speechprune.slimming.scores import accumulate, channel_scores, head_scores

NAMES = ("gradient", "magnitude", "snip", "snip_momentum")
HEADS, HEAD_SIZE, WIDTH, CHANNELS = 4, 3, 12, 16


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> SlimmingReference:
    return SlimmingReference(shared_data)


def scores_at(
    reference: SlimmingReference, criterion: Criterion, kind: str, layer: int, update: int
) -> Tensor:
    """Scores of one update alone."""

    def both(module: str) -> tuple[Tensor, Tensor]:
        weight = reference.tensor(layer, module, "weight", update)
        return weight, reference.tensor(layer, module, "grad", update)

    if kind == "column":
        return channel_scores(criterion, *both("fc2"))
    weights, gradients = zip(*(both(module) for module in ("q", "k", "v", "out")))
    return head_scores(criterion, weights, gradients, reference.facts["heads"])


@pytest.mark.parametrize("kind", ["column", "head"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_reference(
    reference: SlimmingReference, name: str, kind: str
) -> None:
    criterion = CRITERIA.build(name)
    expected = reference.scores(kind, name)
    for layer in range(reference.facts["layers"]):
        score = torch.zeros_like(expected[0, layer])
        for update in range(reference.facts["steps"]):
            now = scores_at(reference, criterion, kind, layer, update)
            score = accumulate(criterion, score, now)
            torch.testing.assert_close(score, expected[update, layer], rtol=2e-6, atol=1e-7)


def attention(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Weights, or gradients, of query, key, value and out."""
    generator = torch.Generator().manual_seed(seed)
    size = HEADS * HEAD_SIZE
    shapes = [(size, WIDTH + 1)] * 3 + [(WIDTH + 1, size)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def test_head_scores_by_loops() -> None:
    """One entry after the other, in float64; rows and columns have different lengths."""
    weights, gradients = attention(seed=1), attention(seed=2)
    expected = []
    for head in range(HEADS):
        own = range(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)
        means = []
        for module, (weight, gradient) in enumerate(zip(weights, gradients)):
            product = (weight.double() * gradient.double()).abs()
            part = product[:, own] if module == 3 else product[own]
            means.append(sum(part.flatten().tolist()) / part.numel())
        expected.append(sum(means) / 4)
    found = head_scores(CRITERIA.build("snip"), weights, gradients, HEADS)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64))


def test_magnitude_needs_no_gradients() -> None:
    magnitude = CRITERIA.build("magnitude")
    weights = attention()
    with_gradients = head_scores(magnitude, weights, attention(seed=9), HEADS)
    assert head_scores(magnitude, weights, None, HEADS).equal(with_gradients)
    assert channel_scores(magnitude, weights[3], None).equal(weights[3].abs().mean(0))


def test_small_half_precision_products_do_not_underflow() -> None:
    weight = torch.full((WIDTH, CHANNELS), 1e-4, dtype=torch.float16)
    assert not (weight * weight).any()
    found = channel_scores(CRITERIA.build("snip"), weight, weight)
    torch.testing.assert_close(found, torch.full((CHANNELS,), 1e-8), rtol=1e-2, atol=0.0)


def test_momentum_decays_as_set() -> None:
    criterion = CRITERIA.build("snip_momentum", decay=0.5)
    score = torch.zeros(2)
    for now in ([1.0, 2.0], [4.0, 0.0], [0.0, 8.0]):
        score = accumulate(criterion, score, torch.tensor(now))
    assert score.tolist() == [2.25, 8.5]
    with pytest.raises(UserError, match=r"decay of snip_momentum must lie in \[0, 1\), not 1.0"):
        CRITERIA.build("snip_momentum", decay=1.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_dropped_layer_keeps_its_scores(name: str) -> None:
    criterion = CRITERIA.build(name)
    before, zero = torch.tensor([3.0, 1.0]), torch.zeros(2)
    found = accumulate(criterion, before, zero)
    # All weights of a layer may really be 0: magnitudes have no other reason to be.
    assert found.equal(before if criterion.needs_gradient else zero)
    assert (
        accumulate(criterion, before, torch.tensor([0.0, 2.0]))[1]
        == before[1] * (criterion.decay) + 2.0
    )


class LiveTensors(TorchDispatchMode):
    """Counts how many tensors of some size, made meanwhile, are in memory at once."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel = numel
        self.live: set[int] = set()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)}
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.numel() >= self.numel:
            place = result.untyped_storage().data_ptr()
            if place not in inputs and place not in self.live:
                self.live.add(place)
                weakref.finalize(result.untyped_storage(), self.live.discard, place)
        self.most = max(self.most, len(self.live))
        return result


def large_attention(seed: int, dtype: torch.dtype) -> list[Tensor]:
    """Like `attention`, of so many entries that their scores are taken in blocks."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(HEADS * 100, 601)] * 3 + [(601, HEADS * 100)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_no_temporary_of_a_weights_size(name: str, dtype: torch.dtype) -> None:
    weights, gradients = large_attention(1, dtype), large_attention(2, dtype)
    copies = [tensor.clone() for tensor in (*weights, *gradients)]
    with LiveTensors(weights[0].numel() // 2) as watched:
        head_scores(CRITERIA.build(name), weights, gradients, HEADS)
        channel_scores(CRITERIA.build(name), weights[3], gradients[3])
    assert watched.most == 0
    # Nothing was saved by working in place on what is not ours.
    assert all(map(torch.equal, copies, (*weights, *gradients)))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_make_no_difference(name: str) -> None:
    """Against means of all entries at once in float64."""
    criterion = CRITERIA.build(name)
    weights, gradients = large_attention(1, torch.float32), large_attention(2, torch.float32)
    pairs = zip(weights, gradients)
    *projections, out = (criterion.entries(*pair).double() for pair in pairs)
    heads = out.unflatten(1, (HEADS, -1)).mean((0, 2))
    heads += sum(each.unflatten(0, (HEADS, -1)).mean((1, 2)) for each in projections)
    found = head_scores(criterion, weights, gradients, HEADS)
    torch.testing.assert_close(found.double(), heads / 4, rtol=1e-6, atol=0.0)
    assert found.equal(head_scores(criterion, weights, gradients, HEADS))
    found = channel_scores(criterion, weights[3], gradients[3])
    torch.testing.assert_close(found.double(), out.mean(0), rtol=1e-6, atol=0.0)


def test_nothing_is_recorded_for_the_backward_pass() -> None:
    weight = torch.randn(WIDTH, CHANNELS, requires_grad=True)
    found = channel_scores(CRITERIA.build("snip"), weight, torch.randn(WIDTH, CHANNELS))
    assert not found.requires_grad and weight.grad is None


@pytest.mark.cuda
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_gathered_without_waiting_for_the_gpu(name: str) -> None:
    criterion = CRITERIA.build(name)
    weights, gradients = attention(seed=1), attention(seed=2)
    expected = head_scores(criterion, weights, gradients, HEADS)
    weights, gradients = ([each.cuda() for each in tensors] for tensors in (weights, gradients))
    before = torch.zeros(HEADS, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        now = head_scores(criterion, weights, gradients, HEADS)
        after = accumulate(criterion, before, now)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(after.cpu(), expected)
