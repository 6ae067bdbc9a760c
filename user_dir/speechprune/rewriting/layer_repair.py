"""Refitting an encoder, layer by layer, to do without the heads and channels that are to go.

Each layer is repaired once those before it are: its inputs are what it gets in the slim model, and
what it is refitted to is what the whole block would make of these inputs. So errors of earlier
layers are not made up for, but every block stays as near to itself as it can where it is used.
Attention is repaired before the feed-forward block of its layer, which gets its outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from speechprune.backbones import Backbone
from speechprune.backbones.base import Entry
from speechprune.rewriting.calibration import Part
from speechprune.slimming.cutting import check_cut, head_entries
from speechprune.slimming.plan import KeptUnits
from speechprune.slimming.repair import InputMoments, refit


@dataclass(frozen=True)
class BlockError:
    """How far a block's output is from that of the whole block for the same inputs.

    Attributes:
        before: relative, see `speechprune.slimming.repair.Refit`; without repair.
        after: with repair.
    """

    before: float
    after: float


@dataclass(frozen=True)
class LayerErrors:
    """The errors of one layer; of its attention and of its feed-forward block."""

    attention: BlockError
    feed_forward: BlockError


@torch.no_grad()
def repair(
    family: Backbone, encoder: nn.Module, kept: Sequence[KeptUnits], parts: Iterable[Part]
) -> list[LayerErrors]:
    """Make an encoder not need the units that are to be cut out, in place, by calibration audio.

    The weights that read from these units become 0; nothing is cut out. Attention is left to a
    module that shows what its output projection is given. The states of all parts are held, at one
    depth at a time.

    Args:
        encoder: in evaluation mode, without masks.
        kept: for each layer, the units that stay.
        parts: on the encoder's device.

    Returns:
        The errors of each layer.

    Raises:
        UserError: as `Backbone.slim`, or a layer's inputs are not finite numbers.
    """
    whole = family.units(encoder)
    check_cut(whole, kept)
    family.slim(encoder, [KeptUnits.all(layer.heads, layer.channels) for layer in whole])
    entries = [family.enter(encoder, part.source, part.padding_mask) for part in parts]
    errors = []
    for layer, units, keeps in zip(family.layers(encoder), family.units(encoder), kept):
        heads = head_entries(keeps.heads, units.head_size).tolist()
        attention = _repair(units.out, heads, layer, entries)
        feed_forward = _repair(units.second, keeps.channels, layer, entries)
        errors.append(LayerErrors(attention, feed_forward))
        entries = [replace(entry, state=entry.through(layer, entry.state)) for entry in entries]
    return errors


def _repair(
    linear: nn.Linear, kept: Sequence[int], layer: nn.Module, entries: Sequence[Entry]
) -> BlockError:
    """Refit a linear layer to some of its inputs, in place, with weights of 0 for the others."""
    if len(kept) == linear.in_features:
        return BlockError(0.0, 0.0)
    moments = _moments(linear, layer, entries)
    new = refit(linear.weight, linear.bias, moments, kept)
    linear.weight.zero_()
    linear.weight[:, list(kept)] = new.weight
    linear.bias.copy_(new.bias)
    return BlockError(new.error_before, new.error_after)


def _moments(linear: nn.Linear, layer: nn.Module, entries: Sequence[Entry]) -> InputMoments:
    """Of what a linear layer gets within a transformer layer, over the frames of audio."""
    moments = InputMoments(linear.in_features)
    for entry in entries:
        with _inputs_of(linear) as inputs:
            entry.through(layer, entry.state)
        for each in inputs:
            moments.add(each[entry.heard])
    return moments


@contextmanager
def _inputs_of(linear: nn.Linear) -> Iterator[list[Tensor]]:
    """Collects what a linear layer is given."""
    inputs: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs.append(arguments[0])

    hook = linear.register_forward_pre_hook(keep)
    try:
        yield inputs
    finally:
        hook.remove()
