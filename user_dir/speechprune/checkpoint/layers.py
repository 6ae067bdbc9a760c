"""What a checkpoint says of its layers: how many there are, and which it has lost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from speechprune.backbones import Backbone, backbone_called
from speechprune.checkpoint.file import PROVENANCE, PathLike, read
from speechprune.checkpoint.settings import encoder_name, mapping
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan
from speechprune.state_names import STATE_WEIGHTS

#: Where the settings of a saved model's encoder tell what it lost in training.
DROPPED = "dropped_layers"


def depth(path: PathLike) -> int:
    """The number of layers of a pretrained or finetuned checkpoint, which is not built.

    Raises:
        UserError: the file cannot be read, or holds no encoder of a registered family.
    """
    state = read(path, mmap=True)
    return count_layers(state["model"], family_of(state, path), path)


def family_of(state: Mapping[str, Any], path: PathLike) -> Backbone:
    """What is known of the encoder's model family; raises UserError if none is registered."""
    try:
        return backbone_called(str(encoder_name(state)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def count_layers(keys: Collection[str], family: Backbone, path: PathLike) -> int:
    """How many layers have tensors; raises UserError if none has."""
    layers = 0
    while any(family.key_without_layers(key, [layers]) is None for key in keys):
        layers += 1
    if not layers:
        raise UserError(f"{path} holds no weights of transformer layers; check the checkpoint")
    return layers


def lost_layers(state: Mapping[str, Any], now: LayerPlan | None = None) -> LayerPlan | None:
    """All layers that a model has lost, by the numbers that they had at first.

    Args:
        state: a pretrained or finetuned checkpoint, which tells what it lost in training or as a
            file.
        now: what it loses besides.

    Returns:
        None if none are known.
    """
    before = _lost_before(state)
    if before is None or now is None:
        return now or before
    return before.then(now)


def without_layers(
    tensors: Mapping[str, Any], dropped: Collection[int], family: Backbone
) -> dict[str, Any]:
    """A state dict, or anything by the names of tensors, less the 0-based layers ``dropped``.

    So are state dicts within it, of teachers; and a head that reads all hidden states has no weight
    any more for those after the dropped layers.
    """
    renamed = {}
    for key, value in tensors.items():
        new = family.key_without_layers(key, dropped)
        if new is None:
            continue
        if isinstance(value, dict):
            value = without_layers(value, dropped, family)
        elif new == STATE_WEIGHTS:
            value = without_states(value, dropped)
        renamed[new] = value
    return renamed


def without_states(weights: Tensor, dropped: Collection[int]) -> Tensor:
    """The weights of hidden states, (L + 1,), less those of the states after dropped layers."""
    gone = set(dropped)
    return weights[[state for state in range(len(weights)) if state - 1 not in gone]].clone()


def refuse_other_layers(path: PathLike, state: Mapping[str, Any], own: LayerPlan | None) -> None:
    """Raise UserError if a checkpoint is as deep as a model, but has lost other layers than it.

    Args:
        path, state: the checkpoint that is to give the model its weights.
        own: what the model has lost, as `lost_layers` tells.
    """
    before = lost_layers(state)
    if own is None or before is None or own.layers != before.layers:
        return
    # Of more layers, some are still to be lost.
    if len(own.kept) == len(before.kept) and own.dropped != before.dropped:
        raise UserError(
            f"{Path(path).absolute()} has lost the layers {list(before.dropped)}, but the settings "
            f"name {list(own.dropped)}; name the same, or begin a new run"
        )


def _lost_before(state: Mapping[str, Any]) -> LayerPlan | None:
    model = mapping((state.get("cfg") or {}).get("model"))
    # A model of text has the settings of its encoder among its own.
    encoder = mapping(model.get("w2v_args") or model)
    recorded = encoder.get(DROPPED) or state.get(PROVENANCE) or {}
    if "dropped" not in recorded:
        return None
    layers, dropped = recorded.get("layers"), recorded["dropped"]
    is_list = isinstance(dropped, Sequence) and all(type(layer) is int for layer in dropped)
    if type(layers) is not int or not is_list:
        raise UserError(f"the checkpoint's record of lost layers is damaged: {recorded}"[:200])
    return LayerPlan(layers, tuple(dropped))
