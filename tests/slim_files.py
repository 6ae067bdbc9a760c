"""Nano checkpoints some of whose heads and channels change nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from checkpoints import rewrite

from speechprune.state_names import ENCODER

#: Of the nano models: heads, channels of each head, and channels of the feed-forward block.
HEADS, HEAD_SIZE, WIDTH = 4, 8, 64


def rows_of(heads: Collection[int]) -> list[int]:
    """What heads own of attention's projections."""
    return [head * HEAD_SIZE + entry for head in sorted(heads) for entry in range(HEAD_SIZE)]


def silence(
    weights: Mapping[str, Any],
    layer: int,
    *,
    heads: Collection[int] = (),
    channels: Collection[int] = (),
) -> None:
    """Let some units of a layer write nothing, in a state dict of any kind."""
    prefix = _prefix(weights, layer)
    weights[f"{prefix}self_attn.out_proj.weight"][:, rows_of(heads)] = 0
    weights[f"{prefix}fc2.weight"][:, sorted(channels)] = 0


def deafen(
    weights: Mapping[str, Any],
    layer: int,
    *,
    heads: Collection[int] = (),
    channels: Collection[int] = (),
) -> None:
    """Let some units of a layer read nothing: through their biases, now of some size, they write
    the same to each frame."""
    prefix = _prefix(weights, layer)
    generator = torch.Generator().manual_seed(layer)
    for name, rows in (("self_attn.v_proj", rows_of(heads)), ("fc1", sorted(channels))):
        weights[f"{prefix}{name}.weight"][rows] = 0
        bias = weights[f"{prefix}{name}.bias"]
        bias.copy_(torch.randn(bias.shape, generator=generator))


def with_idle_units(path: Path) -> Path:
    """Rewrite a checkpoint: of layer 0 head 1 and channels 0 to 9 write nothing, of layer 1 head 2
    and channels 30 to 49 read nothing."""

    def change(state: dict[str, Any]) -> None:
        silence(state["model"], 0, heads=[1], channels=range(10))
        deafen(state["model"], 1, heads=[2], channels=range(30, 50))

    return rewrite(path, change)


def _prefix(weights: Mapping[str, Any], layer: int) -> str:
    encoder = ENCODER if any(key.startswith(ENCODER) for key in weights) else ""
    return f"{encoder}encoder.layers.{layer}."
