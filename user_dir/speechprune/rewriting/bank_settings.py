"""The settings of a task as a bank keeps them, which has those of pretraining once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from omegaconf import OmegaConf

from speechprune.bank.bank import Bank
from speechprune.bank.header import SECTIONS
from speechprune.checkpoint.layers import DROPPED
from speechprune.checkpoint.settings import plain
from speechprune.masking.mask_set import MaskSet
from speechprune.models.declaration import declared
from speechprune.models.frozen_weights import trains_masked_weights
from speechprune.models.names import FIXED_MASK, ROUTER
from speechprune.rewriting.fixed_masks import seed_of, with_fixed_masks

#: Settings that are paths, which mean nothing elsewhere, and what takes their place.
_PATHS: Mapping[str, Any] = {
    "data": ".",
    "finetune_from_model": None,
    "mask_file": None,
    "restore_file": "checkpoint_last.pt",
    "save_dir": "checkpoints",
    "target_dictionary": None,
    "teacher": None,
}


def settings_of(cfg: Any, bank: Bank, masks: MaskSet) -> dict[str, Any]:
    """What a bank keeps of a checkpoint's configuration, as JSON can hold it: ``settings``, with
    fixed masks, and ``pretraining``, what differs from the settings of the bank's model."""
    container: Any = plain(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    seed, model = seed_of(container), dict(container["model"])
    pretraining = model.pop("w2v_args")
    model = with_fixed_masks(model, seed, masks.density, _flags(cfg.model, masks))
    changed: dict[str, Any] = {
        section: {
            key: value
            for key, value in without_paths(pretraining[section]).items()
            if key not in bank.settings[section] or bank.settings[section][key] != value
        }
        for section in SECTIONS
    }
    if pretraining.get(DROPPED) is not None:
        changed[DROPPED] = pretraining[DROPPED]
    kept = {
        "task": without_paths(container["task"]),
        "model": without_paths(model),
        "criterion": without_paths(container.get("criterion") or {}),
        "common": {"seed": seed},
    }
    return {"settings": kept, "pretraining": changed}


def _flags(model: Any, masks: MaskSet) -> dict[str, Any]:
    """The flags of a model like ``model``, but with masks that need no scores."""
    if "fix_mask" in declared(model["_name"]).reads:
        return {}
    biases = any(site.endswith(".bias") for site in masks)
    of_directions = any(site.endswith(".weight_v") for site in masks)
    trains = trains_masked_weights(model)
    name = FIXED_MASK if biases or of_directions or trains else ROUTER
    return {"_name": name, "prune_biases": biases}


def without_paths(section: Mapping[str, Any]) -> dict[str, Any]:
    """Settings less the paths in them, which mean nothing elsewhere; of the pretrained model's, its
    name is left."""
    found = {key: _PATHS.get(key, value) for key, value in section.items()}
    if found.get("w2v_path"):
        found["w2v_path"] = PurePath(found["w2v_path"]).name
    return found
