"""What checkpoints and mask files say of themselves: masks, lost layers, heads and channels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.reports.page.contents import LayerUnits, Model


def read_model(path: Path, name: str) -> Model:
    """What a checkpoint says of what it has lost.

    Raises:
        UserError: the file cannot be read, or its masks or its records of that are damaged.
    """
    from speechprune.checkpoint.file import read
    from speechprune.checkpoint.layers import lost_layers
    from speechprune.models.mask_reading import read_checkpoint_masks
    from speechprune.state_names import has_masks, is_scores

    state = read(path, mmap=True)
    tensors = state["model"]
    masked = has_masks(tensors) or any(map(is_scores, tensors))
    try:
        lost, units = lost_layers(state), _units(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Model(name, read_checkpoint_masks(path) if masked else None, lost, units)


def _units(state: Mapping[str, Any]) -> tuple[LayerUnits, ...] | None:
    """Heads and channels of each layer, where some were removed."""
    from speechprune.checkpoint.slimming import kept_units_in, slim_plan_in

    removed = kept_units_in(state["model"])
    if removed:
        return _in_slimming(removed)
    plan = slim_plan_in(state)
    if plan is None:
        return None
    return tuple(
        LayerUnits(len(kept.heads), plan.heads, len(kept.channels), plan.channels)
        for kept in plan.kept
    )


def _in_slimming(kept: Mapping[str, tuple[bool, ...]]) -> tuple[LayerUnits, ...]:
    """Of a model in slimming, whose units are removed but not cut out yet."""
    from speechprune.slimming.controller import KEPT

    counts: dict[int, dict[str, tuple[int, int]]] = {}
    for key, units in kept.items():
        kind, _, layer = key.partition(f"_{KEPT}_")
        counts.setdefault(int(layer), {})[kind] = (sum(units), len(units))
    whole = (0, 0)
    return tuple(
        LayerUnits(*counts[layer].get("heads", whole), *counts[layer].get("channels", whole))
        for layer in sorted(counts)
    )
