"""What a checkpoint says of the heads and channels that were cut out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.settings import encoder_of, models_in
from speechprune.errors import UserError
from speechprune.slimming.plan import SLIM_PLAN, SlimPlan


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
