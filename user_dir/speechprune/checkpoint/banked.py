"""The checkpoint that a task of a bank is: what was added, but for scores and the optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from speechprune import __version__
from speechprune.bank.arrays import rounded, tensor_of
from speechprune.bank.bank import Bank
from speechprune.bank.header import SECTIONS
from speechprune.checkpoint.contents import validated
from speechprune.checkpoint.file import PROVENANCE
from speechprune.checkpoint.layers import DROPPED
from speechprune.checkpoint.outputs import dictionary_of
from speechprune.checkpoint.pretrained import pretrained_state
from speechprune.checkpoint.slots import SLOTS
from speechprune.checkpoint.training_state import HISTORY
from speechprune.errors import UserError
from speechprune.masking.bits import pack_bits
from speechprune.masking.mask_set import MaskSet
from speechprune.state_names import ENCODER, key_of, mask_key, regrown_key, sibling

#: What tensors were saved as.
_SAVED = {"float32": torch.float32, "float16": torch.float16}


def state_of(bank: Bank, name: str) -> dict[str, Any]:
    """The state of the checkpoint that a task is, validated as one that was read.

    Its tensors are those that were added, bit for bit; many lie in the bank's file, and nobody may
    write to them. There are no scores: its masks are fixed, and have one bit for each weight.

    Raises:
        UserError: there is no such task, or the bank is damaged.
    """
    masks = bank.masks(name)
    bank.check_base()
    where, about = f"{bank.path}: the task {name!r}", bank.about(name)
    with _telling(where):
        types = getattr(torch, bank.precision(name)), _SAVED[about["saved"]]
        found = _tensors(bank, masks, types, about)
        found.update({sibling(key_of(s), mask_key): pack_bits(masks[s]) for s in masks})
        state = {
            **_described(bank, name, found),
            "criterion": None,
            "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
            PROVENANCE: {
                **about["provenance"],
                "version": __version__,
                "task": name,
                "extracted_from": bank.digest,
                "added_from": about["source"],
            },
        }
    return validated(state, where)


def outline_of(bank: Bank, name: str) -> dict[str, Any]:
    """As `state_of`, but with the shared weights as they are, and without masks: what is needed to
    build the model of a task, in which nothing is copied and the shared weights are not read.

    Raises:
        UserError: there is no such task, or it is damaged.
    """
    where, shared = f"{bank.path}: the task {name!r}", bank.base
    with _telling(where):
        tensors = {ENCODER + key: tensor_of(shared[key]) for key in shared}
        state = _described(bank, name, tensors)
    return validated(state, where)


def base_state_of(bank: Bank) -> dict[str, Any]:
    """The shared model as a pretrained checkpoint; its tensors lie in the bank's file.

    Raises:
        UserError: the bank is damaged.
    """
    bank.check_base()
    tensors = {name: tensor_of(bank.base[name]) for name in bank.base}
    state = pretrained_state(tensors, bank.settings["task"], bank.settings["model"], 0)
    return validated(state, bank.path)


@contextmanager
def _telling(where: str) -> Iterator[None]:
    """Whoever writes a file may have it say anything."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{where} is damaged: what it says of itself cannot be read") from error


def _described(bank: Bank, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state of a task without what it notes of its making.

    Args:
        tensors: besides its own.
    """
    own, about = bank.own(name), bank.about(name)
    return {
        "args": None,
        "cfg": _configuration(bank, about),
        "model": {**tensors, **{key: tensor_of(own[key]) for key in own}},
        "optimizer_history": [{**HISTORY, "num_updates": about["updates"]}],
        "task_state": _outputs(about),
    }


def _tensors(
    bank: Bank, masks: MaskSet, types: tuple[torch.dtype, torch.dtype], about: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The encoder as it was saved, with what removed weights were before they were zero."""
    found = {}
    for name in bank.base:
        tensor = rounded(bank.base[name], *types)
        if name in masks and about["regrown"]:
            found[sibling(key_of(name), regrown_key)] = tensor[~masks[name]]
        if name in masks and about["zeroed"]:
            tensor = torch.where(masks[name], tensor, 0.0)
        found[ENCODER + name] = tensor
    return found


def _outputs(about: Mapping[str, Any]) -> dict[str, Any]:
    """What the outputs stand for, as training saves it."""
    if SLOTS in about:
        return {SLOTS: about[SLOTS]}
    return {"target_dictionary": dictionary_of(about["target_dictionary"])}


def _configuration(bank: Bank, about: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those of pretraining, as a finetuned checkpoint has them."""
    settings, changed = about["settings"], about["pretraining"]
    pretraining: dict[str, Any] = {"criterion": None, "lr_scheduler": None}
    for section in SECTIONS:
        pretraining[section] = {**bank.settings[section], **changed[section]}
    if DROPPED in changed:
        pretraining[DROPPED] = changed[DROPPED]
    model = {**settings["model"], "w2v_args": pretraining}
    return {**settings, "model": model}
