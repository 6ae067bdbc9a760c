"""Cutting heads and channels out of a layer's tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechprune.errors import UserError
from speechprune.slimming.plan import KeptUnits
from speechprune.slimming.units import LayerUnits


def check_cut(units: Sequence[LayerUnits], kept: Sequence[KeptUnits]) -> None:
    """Raise UserError unless every layer has what it is to keep."""
    if len(units) != len(kept):
        raise UserError(f"a slim plan for {len(kept)} layers, but the model has {len(units)}")
    for layer, keeps in zip(units, kept):
        try:
            keeps.check_fits(layer.heads, layer.channels)
        except UserError as error:
            raise UserError(f"layer {layer.layer} of the slim plan: {error}") from error


@torch.no_grad()
def cut_layer(units: LayerUnits, kept: KeptUnits) -> LayerUnits:
    """Leave only some units in the linear layers of ``units``, in place, and give what is left.

    The other units' weights are lost, whatever they are; where that changes nothing, see
    `speechprune.slimming.removable`. The linear layers stay the same objects; their parameters are
    new ones.
    """
    for linear, (dimension, entries) in kept_entries(units, kept).items():
        _keep(linear, dimension, entries)
    return LayerUnits(
        units.layer,
        *(units.query, units.key, units.value, units.out, units.first, units.second),
        len(kept.heads),
        units.head_size,
        units.activation,
    )


@torch.no_grad()
def cut_channels(first: nn.Linear, second: nn.Linear, channels: Sequence[int]) -> None:
    """Leave only some channels in the two linear layers of a feed-forward block, in place.

    Args:
        first, second: of weights (F, C) and (C, F).
        channels: that stay, ascending.
    """
    entries = torch.tensor(channels)
    _keep(first, 0, entries)
    _keep(second, 1, entries)


def kept_entries(units: LayerUnits, kept: KeptUnits) -> dict[nn.Linear, tuple[int, Tensor]]:
    """What stays of the weight of each linear layer: along which dimension, and which entries of
    it, int64; along dimension 0, the bias keeps the same ones."""
    of_heads, channels = head_entries(kept.heads, units.head_size), torch.tensor(kept.channels)
    return {
        units.query: (0, of_heads),
        units.key: (0, of_heads),
        units.value: (0, of_heads),
        units.out: (1, of_heads),
        units.first: (0, channels),
        units.second: (1, channels),
    }


def head_entries(heads: Sequence[int], head_size: int) -> Tensor:
    """The rows, or columns, that belong to heads; int64, (H * D,)."""
    first = torch.tensor(heads)[:, None] * head_size
    return (first + torch.arange(head_size)).reshape(-1)


def _keep(linear: nn.Linear, dimension: int, entries: Tensor) -> None:
    linear.weight = _selected(linear.weight, dimension, entries)
    if dimension == 1:
        linear.in_features = len(entries)
        return
    linear.out_features = len(entries)
    if linear.bias is not None:
        linear.bias = _selected(linear.bias, 0, entries)


def _selected(parameter: Tensor, dimension: int, entries: Tensor) -> nn.Parameter:
    values = parameter.detach().index_select(dimension, entries.to(parameter.device))
    return nn.Parameter(values, requires_grad=parameter.requires_grad)
