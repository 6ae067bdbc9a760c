"""Heads and channels without which a layer's output stays what it is, and how it stays so.

A unit whose entries are zero where it writes to the residual stream (columns of ``out`` and
``second``) contributes nothing. One whose entries are zero where it reads (rows of ``value`` and
``first``) contributes the same to each frame, which a bias can do in its place:

- of channel i: W2[:, i] * activation(b1[i]), to the bias of ``second``;
- of head h: Wo[:, h] @ b_v[h], to the bias of ``out``, for its attention weights sum to 1.

Outputs are equal in evaluation; dropout of activations or attention weights, in training, drops
what a unit contributes and never a bias. A head whose rows of ``query`` and ``key`` alone are zero
attends to all frames alike, and stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechprune.slimming.plan import KeptUnits
from speechprune.slimming.units import LayerUnits, check_multiple, numbers_of, rounded_up


@dataclass(frozen=True)
class RemovableUnits:
    """The units of one layer that can go, ascending, by 0-based numbers; perhaps all of them."""

    heads: tuple[int, ...]
    channels: tuple[int, ...]


def removable_units(units: LayerUnits) -> RemovableUnits:
    """The heads and channels of a layer without which its output stays what it is."""
    return RemovableUnits(
        numbers_of(_silent_heads(units) | _constant_heads(units)),
        numbers_of(_silent_channels(units) | _constant_channels(units)),
    )


def kept_without(
    units: LayerUnits, removable: RemovableUnits, *, multiple_of: int = 1
) -> KeptUnits:
    """What of a layer stays: at least one head, one channel, and a round number of channels.

    Where removable units have to stay, it is those of the largest weights, by the sum of their
    squares; among equals the lower number.

    Args:
        multiple_of: what the number of channels is rounded up to, as far as the layer has them.

    Raises:
        UserError: ``multiple_of`` is less than 1.
    """
    check_multiple(multiple_of)
    channels = max(units.channels - len(removable.channels), 1)
    rounded = rounded_up(channels, multiple_of, units.channels)
    heads = max(units.heads - len(removable.heads), 1)
    return KeptUnits(
        _largest(_strength_of_heads(units), removable.heads, heads),
        _largest(_strength_of_channels(units), removable.channels, rounded),
    )


@torch.no_grad()
def fold_constants(units: LayerUnits, kept: KeptUnits) -> None:
    """Add what units that will go contribute to each frame to the biases of ``out`` and ``second``.

    In place, summed in float64. Nothing is added for units whose contribution is not constant.
    """
    heads = _without(_constant_heads(units), kept.heads)
    if heads.any():
        entries = heads.repeat_interleave(units.head_size)
        constants = _bias_of(units.value)[entries]
        _add(units.out.bias, units.out.weight.double()[:, entries] @ constants)
    channels = _without(_constant_channels(units), kept.channels)
    if channels.any():
        constants = units.activation(_bias_of(units.first)[channels]).double()
        _add(units.second.bias, units.second.weight.double()[:, channels] @ constants)


def _add(bias: Tensor, constant: Tensor) -> None:
    bias.copy_(bias.double() + constant)


# --- which units contribute nothing, or the same to each frame: bool, (H,) or (F,) ---------------


def _silent_heads(units: LayerUnits) -> Tensor:
    return _by_head(units.out.weight.T, units).eq(0).all(1)


def _silent_channels(units: LayerUnits) -> Tensor:
    return units.second.weight.eq(0).all(0)


def _constant_heads(units: LayerUnits) -> Tensor:
    constant = _by_head(units.value.weight, units).eq(0).all(1)
    return constant if units.out.bias is not None else torch.zeros_like(constant)


def _constant_channels(units: LayerUnits) -> Tensor:
    constant = units.first.weight.eq(0).all(1)
    return constant if units.second.bias is not None else torch.zeros_like(constant)


# --- helpers -------------------------------------------------------------------------------------


def _by_head(rows: Tensor, units: LayerUnits) -> Tensor:
    """(H * D, N) as (H, D * N)."""
    return rows.reshape(units.heads, -1)


def _bias_of(linear: nn.Linear) -> Tensor:
    """In float64; zeros if it has none."""
    if linear.bias is None:
        return linear.weight.new_zeros(linear.out_features, dtype=torch.float64)
    return linear.bias.double()


def _without(chosen: Tensor, kept: tuple[int, ...]) -> Tensor:
    chosen = chosen.clone()
    chosen[list(kept)] = False
    return chosen


def _strength_of_heads(units: LayerUnits) -> Tensor:
    """The sum of squares of each head's weights, float64 (H,)."""
    rows = (units.query.weight, units.key.weight, units.value.weight, units.out.weight.T)
    return torch.stack([_by_head(each.double().square(), units).sum(1) for each in rows]).sum(0)


def _strength_of_channels(units: LayerUnits) -> Tensor:
    """The sum of squares of each channel's weights, float64 (F,)."""
    first, second = units.first.weight.double(), units.second.weight.double()
    return first.square().sum(1) + second.square().sum(0)


def _largest(strength: Tensor, removable: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The numbers of ``count`` units, ascending: all that are not removable, and the strongest."""
    values = strength.tolist()
    order = sorted(removable, key=lambda unit: (-values[unit], unit))
    stay = len(strength) - len(removable)
    gone = set(order[count - stay :])
    return tuple(unit for unit in range(len(strength)) if unit not in gone)
