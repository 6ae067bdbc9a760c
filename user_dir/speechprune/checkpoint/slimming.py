"""What a checkpoint says of the heads and channels that were cut out of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.settings import encoder_of, models_in
from speechprune.errors import UserError
from speechprune.slimming.controller import KEPT, SLIM_CONTROLLER
from speechprune.slimming.plan import SLIM_PLAN, SlimPlan

_PREFIX = f"{SLIM_CONTROLLER}."
#: What the parameter of a gate is called.
_GATE = ".scaled_log_alpha"


def slim_plan_in(state: Mapping[str, Any]) -> SlimPlan | None:
    """What a pretrained or finetuned checkpoint keeps of its first heads and channels.

    Returns:
        None if nothing was ever cut out of it.

    Raises:
        UserError: its record of that is damaged.
    """
    for model in models_in(state):
        described = encoder_of(model).get(SLIM_PLAN)
        return None if described is None else SlimPlan.of(described)
    return None


def note_kept_layers(encoder: Any, layers: Iterable[int]) -> None:
    """Let the settings of an encoder, if they have a slim plan, tell what some layers have kept."""
    if encoder.get(SLIM_PLAN) is not None:
        encoder[SLIM_PLAN] = SlimPlan.of(encoder[SLIM_PLAN]).of_layers(layers).describe()


def refuse_other_units(path: PathLike, state: Mapping[str, Any], own: SlimPlan | None) -> None:
    """Raise UserError if a checkpoint has kept other heads or channels than a model.

    Args:
        path, state: the checkpoint that is to give the model its weights.
        own: what the model has kept.
    """
    given = slim_plan_in(state)
    if given is None and own is None:
        return
    if given is None or own is None:
        sides = ("the checkpoint", "the model")
        has, lacks = sides if own is None else sides[::-1]
        raise UserError(
            f"{Path(path).absolute()} does not fit the model: {has} has lost heads or channels, "
            f"but {lacks} has all of them; take model.w2v_path from the same slim checkpoint"
        )
    if len(given.kept) == len(own.kept) and given != own:
        raise UserError(
            f"{Path(path).absolute()} has kept other heads or channels than the model; take "
            "model.w2v_path from the same slim checkpoint"
        )


def is_uncut(keys: Iterable[str]) -> bool:
    """Whether keys are those of a model in slimming.

    What it has removed is zero, or has a closed gate, and is not cut out.
    """
    return any(key.startswith(_PREFIX) for key in keys)


def refuse_uncut(path: object, keys: Iterable[str], problem: str) -> None:
    """Raise UserError if a checkpoint has heads and channels that were removed but not cut out.

    Args:
        path, keys: of the checkpoint and of its tensors.
        problem: in words that go on after "heads and channels".
    """
    if is_uncut(keys):
        raise UserError(
            f"{path} has removed heads and channels, {problem}; cut them out first with "
            "`speechprune slim apply`"
        )


def refuse_gates(path: object, keys: Collection[str]) -> None:
    """Raise UserError if a checkpoint has gates, without which its weights are another network."""
    if any(key.endswith(_GATE) for key in keys):
        refuse_uncut(path, keys, "whose gates are a part of the network")


def kept_units_in(tensors: Mapping[str, Any]) -> dict[str, tuple[bool, ...]]:
    """Which units a model in slimming keeps by now, by kind and layer; empty for all others, also
    where gates are learned."""
    return {
        key[len(_PREFIX) :]: tuple(tensor.bool().tolist())
        for key, tensor in tensors.items()
        if key.startswith(_PREFIX) and f"_{KEPT}_" in key
    }
