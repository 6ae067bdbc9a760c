"""The task that a finetuned checkpoint with masks is on the model of a bank.

Masks are kept, and the tensors that are its own: the head, and whatever else was trained beside the
masks. All others have to be the bank's, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from speechprune.bank.arrays import array_of
from speechprune.bank.bank import Bank
from speechprune.bank.task import LABELS, LETTERS, ErrorRate, Task
from speechprune.checkpoint.file import PROVENANCE, PathLike, digest
from speechprune.checkpoint.layers import count_layers, family_of
from speechprune.checkpoint.saved import read_saved
from speechprune.checkpoint.settings import updates_of
from speechprune.checkpoint.slimming import is_uncut, slim_plan_in
from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.models.frozen_weights import trains_masked_weights
from speechprune.models.loading import read_known
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.rewriting.bank_outputs import outputs_of, rate_of
from speechprune.rewriting.bank_settings import settings_of
from speechprune.rewriting.shared_weights import SharedWeights, name_of
from speechprune.slimming.plan import SLIM_PLAN


def task_of(bank: Bank, name: str, path: PathLike) -> Task:
    """The task called ``name`` that a finetuned checkpoint with masks is on the model of ``bank``.

    Raises:
        UserError: the checkpoint cannot be read, has no masks, is on another model, or has other
            weights than it where they are frozen or masked.
    """
    state = read_known(path)
    where = f"{path} cannot go into {bank.path}"
    _refuse_other_network(bank, state, path, where)
    masks = read_checkpoint_masks(path)
    _refuse_norm(bank, masks, where)
    bank.check_base()
    found = SharedWeights(bank, masks, state["model"], where, _why(state["cfg"].model))
    own = {key: array_of(tensor) for key, tensor in found.own() if tensor.numel()}
    about = {
        **outputs_of(state, path),
        "updates": updates_of(state) or 0,
        "provenance": state.get(PROVENANCE) or {},
        "source": digest(path),
        **settings_of(state["cfg"], bank, masks),
        "zeroed": found.zeroed,
        "regrown": found.regrown,
        "saved": name_of(found.saved),
    }
    measured = validation_of(path, state, about["kind"])
    if measured is not None:
        about["error_rate"] = measured.describe()
    return Task(name, masks, own, _plain(about, path), name_of(found.precision))


def _plain(about: Mapping[str, Any], path: PathLike) -> dict[str, Any]:
    """What JSON will give back; raises UserError for what it cannot hold, such as tensors."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(about))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged: its settings or its provenance are no text, numbers and lists"
        ) from error
    return plain


def _refuse_other_network(bank: Bank, state: Mapping[str, Any], path: PathLike, where: str) -> None:
    """Raise UserError if a checkpoint has not all layers, heads and channels of the base."""
    kept_once = "a bank keeps weights once"
    if is_uncut(state["model"]):
        raise UserError(f"{where}: slimming trained its weights, which differ; {kept_once}")
    plan = bank.settings["model"].get(SLIM_PLAN)
    own_plan = slim_plan_in({"cfg": OmegaConf.to_container(state["cfg"], resolve=True)})
    if (None if own_plan is None else own_plan.describe()) != plan:
        raise UserError(
            f"{where}: it has kept other heads or channels, so that its weights differ; {kept_once}"
        )
    family = family_of({"cfg": {"model": bank.settings["model"]}}, bank.path)
    layers = count_layers(list(bank.base), family, bank.path)
    own = count_layers(list(state["model"]), family, path)
    if own != layers:
        raise UserError(f"{where}: it has {own} layers, and the base of the bank {layers}")


def _refuse_norm(bank: Bank, masks: MaskSet, where: str) -> None:
    for site in masks:
        if site not in bank.base and f"{site}_v" in bank.base:
            raise UserError(
                f"{where}: it has a mask of {site}, which weight norm makes of two tensors; "
                "train with model.no_prune_pos=true"
            )


def _why(model: Any) -> str:
    """Why the weights under masks differ from those of the base."""
    if trains_masked_weights(model):
        return "its weights were trained and differ from the base, and a bank keeps weights once"
    return "it is on another base"


def validation_of(path: PathLike, state: Mapping[str, Any], kind: str) -> ErrorRate | None:
    """The error rate of this very checkpoint in its training's validation; None without one."""
    saved = read_saved(Path(path)) if updates_of(state) is not None else None
    if saved is None or saved.valid is None:
        return None
    measured, _, split = saved.metric.partition(",")[0].partition(" of ")
    if kind == LABELS and measured == "accuracy":
        return ErrorRate(100 - saved.valid, rate_of(kind), split)
    # Fairseq's units are the symbols, which are letters of words here.
    names = {"wer": rate_of(kind), "uer": "CER" if kind == LETTERS else rate_of(kind)}
    return ErrorRate(saved.valid, names[measured], split) if measured in names else None
