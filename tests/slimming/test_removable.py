"""Which units change nothing, and biases that take over what is the same for each frame."""

from __future__ import annotations

import copy

import pytest
import torch
from checkpoints import refusal
from torch import Tensor, nn

from speechprune.slimming.attention import SlimAttention
from speechprune.slimming.cutting import cut_layer, head_entries
from speechprune.slimming.plan import KeptUnits
from speechprune.slimming.removable import (
    RemovableUnits,
    fold_constants,
    kept_without,
    removable_units,
)
from speechprune.slimming.units import LayerUnits

HEADS, SIZE, CHANNELS, WIDTH = 4, 3, 10, 12


def units(activation: nn.Module | None = None, *, biases: bool = True) -> LayerUnits:
    torch.manual_seed(0)
    of_heads = [nn.Linear(CHANNELS, HEADS * SIZE, bias=biases) for _ in range(3)]
    linear = (
        *of_heads,
        nn.Linear(HEADS * SIZE, CHANNELS, bias=biases),
        nn.Linear(CHANNELS, WIDTH, bias=biases),
        nn.Linear(WIDTH, CHANNELS, bias=biases),
    )
    for layer in linear:
        layer.requires_grad_(False)
    return LayerUnits(0, *linear, HEADS, SIZE, activation or nn.GELU())


def outputs(layer: LayerUnits) -> tuple[Tensor, Tensor]:
    """Of attention and of the feed-forward block, each by itself, for 7 frames."""
    frames = torch.randn(7, 2, CHANNELS, generator=torch.Generator().manual_seed(1))
    attended, _ = SlimAttention(layer, 0.0).eval()(frames)
    return attended, layer.second(layer.activation(layer.first(frames)))


def cut(layer: LayerUnits, *, folds: bool = True) -> tuple[Tensor, Tensor]:
    """What a copy of a layer gives without its removable units."""
    slim = copy.deepcopy(layer)
    kept = kept_without(slim, removable_units(slim))
    if folds:
        fold_constants(slim, kept)
    left = cut_layer(slim, kept)
    assert (left.heads, left.channels) == (len(kept.heads), len(kept.channels))
    return outputs(left)


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def test_random_layers_lose_nothing() -> None:
    assert removable_units(units()) == RemovableUnits((), ())


def test_units_that_write_nothing_go_whatever_they_read() -> None:
    layer = units()
    layer.second.weight[:, [2, 5]] = 0
    layer.out.weight[:, head_entries([1], SIZE)] = 0
    assert removable_units(layer) == RemovableUnits((1,), (2, 5))
    for before, after in zip(outputs(layer), cut(layer, folds=False)):
        assert distance(before, after) < 1e-6


@pytest.mark.parametrize("activation", [nn.GELU(), nn.ReLU(), nn.Sigmoid()], ids=str)
def test_units_that_read_nothing_leave_a_constant_in_a_bias(activation: nn.Module) -> None:
    layer = units(activation)
    layer.first.weight[[0, 7]] = 0
    layer.first.bias[[0, 7]] = torch.tensor([0.7, 1.3])
    layer.value.weight[head_entries([3], SIZE)] = 0
    assert removable_units(layer) == RemovableUnits((3,), (0, 7))
    before = outputs(layer)
    for whole, dropped, folded in zip(before, cut(layer, folds=False), cut(layer)):
        assert distance(whole, dropped) > 0.01
        assert distance(whole, folded) < 1e-6


def test_what_a_bias_takes_over_is_what_the_formula_says() -> None:
    layer = units()
    layer.first.weight[4] = 0
    layer.value.weight[head_entries([0], SIZE)] = 0
    biases = layer.out.bias.clone(), layer.second.bias.clone()
    of_head = layer.out.weight[:, :SIZE] @ layer.value.bias[:SIZE]
    of_channel = layer.second.weight[:, 4] * nn.functional.gelu(layer.first.bias[4])
    fold_constants(layer, kept_without(layer, removable_units(layer)))
    torch.testing.assert_close(layer.out.bias, biases[0] + of_head)
    torch.testing.assert_close(layer.second.bias, biases[1] + of_channel)


def test_units_that_stay_leave_the_biases_alone() -> None:
    layer = units()
    layer.first.weight[4] = 0
    layer.value.weight[head_entries([0], SIZE)] = 0
    before = layer.out.bias.clone(), layer.second.bias.clone()
    fold_constants(layer, KeptUnits.all(HEADS, WIDTH))
    assert torch.equal(layer.out.bias, before[0]) and torch.equal(layer.second.bias, before[1])


@pytest.mark.parametrize("names", [("query",), ("key",), ("query", "key")])
def test_heads_that_attend_to_all_frames_alike_stay(names: tuple[str, ...]) -> None:
    layer = units()
    for name in names:
        getattr(layer, name).weight[head_entries([2], SIZE)] = 0
        getattr(layer, name).bias[head_entries([2], SIZE)] = 0
    assert removable_units(layer) == RemovableUnits((), ())


def test_a_unit_with_one_entry_left_stays() -> None:
    layer = units()
    layer.out.weight[:, head_entries([1], SIZE)] = 0
    layer.out.weight[3, SIZE] = 1e-30
    layer.second.weight[:, 2] = 0
    layer.second.weight[0, 2] = -1e-30
    layer.second.weight[:, 3] = -0.0
    assert removable_units(layer) == RemovableUnits((), (3,))


def test_without_biases_what_reads_nothing_stays() -> None:
    """No bias can take over what it would write: not all activations of 0 are 0."""
    layer = units(biases=False)
    layer.first.weight[4] = 0
    layer.value.weight[head_entries([0], SIZE)] = 0
    layer.second.weight[:, 6] = 0
    assert removable_units(layer) == RemovableUnits((), (6,))
    for before, after in zip(outputs(layer), cut(layer)):
        assert distance(before, after) < 1e-6


def test_one_unit_of_each_kind_stays_where_all_could_go() -> None:
    """The one with the largest weights; of equal ones the first."""
    layer = units()
    layer.out.weight.zero_()
    layer.second.weight.zero_()
    layer.first.weight.zero_()
    layer.query.weight[head_entries([2], SIZE)] = 5.0
    kept = kept_without(layer, removable_units(layer))
    assert kept == KeptUnits((2,), (0,))
    for before, after in zip(outputs(layer), cut(layer)):
        assert distance(before, after) < 1e-6


def test_widths_are_rounded_up_by_the_strongest_of_what_could_go() -> None:
    layer = units()
    gone = [1, 3, 4, 8, 9, 11]
    layer.second.weight[:, gone] = 0
    layer.first.weight[gone] = torch.tensor([1.0, 2.0, 3.0, 2.0, 0.5, 2.0])[:, None]
    removable = removable_units(layer)
    assert removable.channels == tuple(gone)
    stay = {0, 2, 5, 6, 7, 10}
    extras = {1: set(), 3: set(), 4: {3, 4}, 5: {3, 4, 8, 11}, 7: {4}, 9: {3, 4, 8}, 64: set(gone)}
    for multiple, extra in extras.items():
        kept = kept_without(layer, removable, multiple_of=multiple)
        assert kept.channels == tuple(sorted(stay | extra)), multiple
        assert kept.heads == tuple(range(HEADS))


def test_a_multiple_of_nothing_is_refused() -> None:
    layer = units()
    message = refusal(kept_without, layer, removable_units(layer), multiple_of=0)
    assert message == "a number of channels cannot be a multiple of 0; give 1 or more"


def test_constants_are_summed_in_double_precision() -> None:
    """Many small ones beside one large one, which single precision loses one by one."""
    layer = units(nn.Identity())
    layer.first.weight.zero_()
    layer.first.bias.fill_(1.0)
    layer.second.weight.fill_(2.0**-25)
    layer.second.bias.fill_(1.0)
    layer.first.weight[0] = 1.0
    fold_constants(layer, KeptUnits((0, 1, 2, 3), (0,)))
    assert torch.equal(layer.second.bias, torch.full((CHANNELS,), 1.0 + 11 * 2.0**-25))
