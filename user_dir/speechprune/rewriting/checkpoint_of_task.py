"""The checkpoint that a task of a bank is: what was added, but for scores and the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from speechprune import __version__
from speechprune.bank.bank import Bank
from speechprune.checkpoint.contents import validated
from speechprune.checkpoint.file import PROVENANCE
from speechprune.errors import UserError
from speechprune.masking.bits import pack_bits
from speechprune.masking.mask_set import MaskSet
from speechprune.rewriting.bank_arrays import rounded, tensor_of
from speechprune.rewriting.bank_outputs import task_state_of
from speechprune.rewriting.bank_settings import configuration_of
from speechprune.rewriting.folding import HISTORY
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
    masks, own, about = bank.masks(name), bank.own(name), bank.about(name)
    bank.check_base()
    where = f"{bank.path}: the task {name!r}"
    try:
        precision = getattr(torch, bank.precision(name))
        saved = _SAVED[about["saved"]]
        found = _tensors(bank, masks, (precision, saved), about)
        found.update({key: tensor_of(own[key]) for key in own})
        found.update({sibling(key_of(s), mask_key): pack_bits(masks[s]) for s in masks})
        state = {
            "args": None,
            "cfg": configuration_of(bank, about),
            "model": found,
            "criterion": None,
            "optimizer_history": [{**HISTORY, "num_updates": about["updates"]}],
            "task_state": task_state_of(about),
            "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
            PROVENANCE: {
                **about["provenance"],
                "version": __version__,
                "task": name,
                "extracted_from": bank.digest,
                "added_from": about["source"],
            },
        }
    # Whoever writes a file may have it say anything.
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} is damaged: what it says of itself cannot be read") from error
    return validated(state, where)


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
