"""Cutting units out of a layer's tensors, and attention with what is left."""

from __future__ import annotations

import pytest
import torch
from checkpoints import refusal
from torch import Tensor, nn

from speechprune.slimming.attention import SlimAttention
from speechprune.slimming.cutting import check_cut, cut_layer, head_entries, kept_entries
from speechprune.slimming.plan import KeptUnits
from speechprune.slimming.units import LayerUnits

HEADS, SIZE, CHANNELS, WIDTH = 4, 2, 6, 5
KEPT = KeptUnits((0, 3), (1, 2, 4))
ROWS = [0, 1, 6, 7]


def units() -> LayerUnits:
    torch.manual_seed(0)
    return LayerUnits(
        1,
        *(nn.Linear(CHANNELS, HEADS * SIZE) for _ in range(3)),
        nn.Linear(HEADS * SIZE, CHANNELS),
        nn.Linear(CHANNELS, WIDTH),
        nn.Linear(WIDTH, CHANNELS),
        HEADS,
        SIZE,
        nn.ReLU(),
    )


def test_heads_own_neighbouring_entries() -> None:
    assert head_entries((0, 3), SIZE).tolist() == ROWS
    assert head_entries([2], 3).tolist() == [6, 7, 8]


def test_a_cut_leaves_the_rows_and_columns_of_what_stays() -> None:
    whole, layer = units(), units()
    left = cut_layer(layer, KEPT)
    for name in ("query", "key", "value"):
        linear, before = getattr(left, name), getattr(whole, name)
        assert linear is getattr(layer, name)
        assert torch.equal(linear.weight, before.weight[ROWS])
        assert torch.equal(linear.bias, before.bias[ROWS])
        assert linear.out_features == 4 and linear.in_features == CHANNELS
    assert torch.equal(left.out.weight, whole.out.weight[:, ROWS])
    assert torch.equal(left.out.bias, whole.out.bias)
    assert torch.equal(left.first.weight, whole.first.weight[[1, 2, 4]])
    assert torch.equal(left.first.bias, whole.first.bias[[1, 2, 4]])
    assert torch.equal(left.second.weight, whole.second.weight[:, [1, 2, 4]])
    assert torch.equal(left.second.bias, whole.second.bias)
    assert (left.layer, left.heads, left.head_size, left.channels) == (1, 2, SIZE, 3)


def test_cut_parameters_train_as_before() -> None:
    layer = units()
    layer.query.requires_grad_(False)
    left = cut_layer(layer, KEPT)
    assert left.key.weight.requires_grad and not left.query.weight.requires_grad
    left.second(left.first(torch.ones(1, CHANNELS))).sum().backward()
    assert left.first.weight.grad is not None


def test_what_stays_is_told_for_each_linear_layer() -> None:
    layer = units()
    parts = kept_entries(layer, KEPT)
    assert {linear: dimension for linear, (dimension, _) in parts.items()} == {
        **dict.fromkeys((layer.query, layer.key, layer.value, layer.first), 0),
        **dict.fromkeys((layer.out, layer.second), 1),
    }
    for linear, (_, entries) in parts.items():
        assert entries.tolist() == ([1, 2, 4] if linear in (layer.first, layer.second) else ROWS)


def test_cuts_that_do_not_fit_are_refused() -> None:
    whole = KeptUnits.all(HEADS, WIDTH)
    check_cut([units(), units()], [whole, KEPT])
    assert "for 1 layers, but the model has 2" in refusal(check_cut, [units()] * 2, [whole])
    message = refusal(check_cut, [units()], [KeptUnits((4,), (0,))])
    assert message == "layer 1 of the slim plan: it keeps head 4, but there are 4 heads"
    message = refusal(check_cut, [units()], [KeptUnits((0,), (5,))])
    assert message == "layer 1 of the slim plan: it keeps channel 5, but there are 5 channels"


def attended(layer: LayerUnits, frames: Tensor, padding: Tensor | None) -> Tensor:
    """Multi-head attention by its formula, head by head and utterance by utterance."""
    output = torch.zeros_like(frames)
    for utterance in range(frames.shape[1]):
        heard = slice(None) if padding is None else ~padding[utterance]
        state = frames[:, utterance]
        joined = []
        for head in range(layer.heads):
            rows = slice(head * layer.head_size, (head + 1) * layer.head_size)
            query, key, value = (
                linear(state)[:, rows] for linear in (layer.query, layer.key, layer.value)
            )
            weights = (query @ key[heard].T / layer.head_size**0.5).softmax(-1)
            joined.append(weights @ value[heard])
        output[:, utterance] = layer.out(torch.cat(joined, 1))
    return output


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_attention_is_the_formula_with_any_number_of_heads(padded: bool) -> None:
    frames = torch.randn(9, 3, CHANNELS, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(3, 9, dtype=torch.bool)
    padding[1, 5:] = True
    mask = padding if padded else None
    for kept in (KeptUnits.all(HEADS, WIDTH), KEPT, KeptUnits((2,), (0,))):
        left = cut_layer(units(), kept)
        found, weights = SlimAttention(left, 0.5).eval()(frames, key_padding_mask=mask)
        assert weights is None
        torch.testing.assert_close(found, attended(left, frames, mask))


@torch.no_grad()
def test_attention_adds_a_mask_to_its_weights() -> None:
    frames = torch.randn(4, 1, CHANNELS, generator=torch.Generator().manual_seed(1))
    layer = SlimAttention(cut_layer(units(), KEPT), 0.0).eval()
    causal = torch.full((4, 4), float("-inf")).triu(1)
    found, _ = layer(frames, attn_mask=causal)
    first, _ = layer(frames[:1])
    torch.testing.assert_close(found[:1], first)
    padding = torch.tensor([[False, False, True, True]])
    both, _ = layer(frames, attn_mask=causal, key_padding_mask=padding)
    torch.testing.assert_close(both[:2], found[:2])
    assert not torch.allclose(both[2:], found[2:])


def test_attention_weights_are_dropped_in_training_alone() -> None:
    layer = SlimAttention(units(), 0.9)
    frames = torch.randn(8, 1, CHANNELS)
    with torch.no_grad():
        first, second = layer.train()(frames)[0], layer(frames)[0]
        assert not torch.equal(first, second)
        assert torch.equal(layer.eval()(frames)[0], layer(frames)[0])
