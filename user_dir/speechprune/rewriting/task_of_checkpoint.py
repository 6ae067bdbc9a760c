"""The task that a finetuned checkpoint with masks is on the model of a bank.

Masks are kept, and the tensors that are its own: the head, and whatever else was trained beside the
masks. All others have to be the bank's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from speechprune.bank.arrays import array_of, rounded
from speechprune.bank.bank import Bank
from speechprune.bank.task import LABELS, LETTERS, PRECISIONS, UNITS, ErrorRate, Task
from speechprune.checkpoint.file import PROVENANCE, PathLike, digest
from speechprune.checkpoint.finetuned import find_dictionary
from speechprune.checkpoint.layers import DROPPED, count_layers, family_of
from speechprune.checkpoint.outputs import counted_symbols
from speechprune.checkpoint.saved import read_saved
from speechprune.checkpoint.settings import plain, updates_of
from speechprune.checkpoint.slimming import is_uncut, slim_plan_in
from speechprune.checkpoint.slots import described_slots, saved_slots
from speechprune.checksums import checksum
from speechprune.decoding.greedy import spells_words
from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.models.declaration import declared
from speechprune.models.frozen_weights import trains_masked_weights
from speechprune.models.loading import read_known
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.models.names import FIXED_MASK, ROUTER, is_labelling
from speechprune.rewriting.fixed_masks import seed_of, with_fixed_masks
from speechprune.slimming.plan import SLIM_PLAN
from speechprune.state_names import (
    ENCODER,
    encoder_layer_of,
    is_of_masks,
    key_of,
    regrown_key,
    sibling,
)

#: What files hold of what a bank can keep; fairseq widens half precision when it saves.
_SAVED = (torch.float32, torch.float16)
#: Hexadecimal digits of a digest that messages show.
_SHOWN = 12
#: How their error rates are called; that of labels counts utterances with a wrong class.
_RATES: Mapping[str, str] = {LETTERS: "WER", UNITS: "UER", LABELS: "error"}
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


def rate_of(kind: str) -> str:
    """How the error rate of a kind of outputs is called."""
    return _RATES[kind]


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
    found = _Comparison(bank, masks, state["model"], where, _why(state["cfg"].model))
    own = {key: array_of(tensor) for key, tensor in found.own() if tensor.numel()}
    about = {
        **_about(state, path),
        **_settings(state["cfg"], bank, masks),
        "zeroed": found.zeroed,
        "regrown": found.regrown,
        "saved": _name(found.saved),
    }
    measured = _validated(path, state, about["kind"])
    if measured is not None:
        about["error_rate"] = measured.describe()
    return Task(name, masks, own, about, _name(found.precision))


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


class _Comparison:
    """The tensors of a checkpoint beside those of a bank.

    Attributes:
        saved: the type of the shared weights in the checkpoint.
        precision: what training had rounded them to.
        zeroed: whether the masked weights were saved with their zeros.
        regrown: whether what these were before was saved too.

    Raises UserError if a weight that is masked or frozen differs.
    """

    def __init__(
        self, bank: Bank, masks: MaskSet, tensors: Mapping[str, Tensor], where: str, why: str
    ) -> None:
        self.bank = bank
        self.masks = masks
        self.tensors = tensors
        self.where = where
        self.why = why
        shared = [site for site in masks if site in bank.base]
        if not shared:
            raise UserError(f"{where}: none of its masks is of a tensor of the base")
        self.saved = self._saved(shared[0])
        self.precision = self._precision(shared[0])
        self.regrown = all(self._regrown(site) is not None for site in shared)
        self.zeroed = self._has_zeros(shared)
        for site in shared:
            self._check_masked(site)

    def own(self) -> Iterator[tuple[str, Tensor]]:
        """All that is not the bank's, in order; raises UserError as the constructor."""
        for name in self.bank.base:
            if ENCODER + name not in self.tensors:
                raise UserError(f"{self.where}: it has no tensor {name}")
        kept = {sibling(key_of(s), regrown_key) for s in self.masks if s not in self.bank.base}
        for key, tensor in self.tensors.items():
            if is_of_masks(key) and key not in kept:
                continue
            name = key[len(ENCODER) :] if key.startswith(ENCODER) else ""
            if name in self.bank.base:
                if name in self.masks or self._is_shared(name):
                    continue
                self._check_free(name, tensor)
            yield key, tensor

    def _saved(self, site: str) -> torch.dtype:
        dtype = self.tensors[key_of(site)].dtype
        if dtype not in _SAVED:
            raise UserError(
                f"{self.where}: {site} is {_name(dtype)}, but a bank keeps tensors of float32 and "
                "float16; save it again in float32, which holds the same values"
            )
        return dtype

    def _precision(self, site: str) -> torch.dtype:
        """What the weights under a mask were rounded to, as those that it keeps tell."""
        mask, own = self.masks[site], self.tensors[key_of(site)]
        if own.dtype != torch.float32 or own.shape != mask.shape:
            return own.dtype
        for name in PRECISIONS:
            precision: torch.dtype = getattr(torch, name)
            expected = rounded(self.bank.base[site], precision, self.saved)
            if _equal(own[mask], expected[mask]):
                return precision
        return torch.float32

    def _has_zeros(self, sites: Iterable[str]) -> bool:
        """Whether what masks remove was saved as zeros, as the first that remove any tell."""
        for site in sites:
            own, base, removed = self.tensors[key_of(site)], self._base(site), ~self.masks[site]
            if own.shape == base.shape and base[removed].any():
                return not own[removed].any()
        return False

    def _base(self, name: str) -> Tensor:
        return rounded(self.bank.base[name], self.precision, self.saved)

    def _regrown(self, site: str) -> Tensor | None:
        return self.tensors.get(sibling(key_of(site), regrown_key))

    def _is_shared(self, name: str) -> bool:
        """Whether a tensor of the encoder is the bank's, bit for bit."""
        return _equal(self.tensors[ENCODER + name], self._base(name))

    def _check_masked(self, site: str) -> None:
        """Raise UserError unless a masked tensor is the bank's, as it is or with its zeros."""
        base, mask = self._base(site), self.masks[site]
        expected = torch.where(mask, base, 0.0) if self.zeroed else base
        if not _equal(self.tensors[key_of(site)], expected):
            raise self._differs(site, self.tensors[key_of(site)], expected)
        regrown = self._regrown(site)
        if regrown is not None and not _equal(regrown, base[~mask]):
            raise self._differs(site, regrown, base[~mask])
        if (regrown is not None) != self.regrown:
            raise UserError(f"{self.where}: only some of its masks have regrown weights")

    def _check_free(self, name: str, tensor: Tensor) -> None:
        """Raise UserError for a tensor that no flag frees while masks are learned: a layer's matrix
        without a mask; or one of another shape."""
        base = self._base(name)
        if (encoder_layer_of(name) is not None and base.dim() > 1) or tensor.shape != base.shape:
            raise self._differs(name, tensor, base)

    def _differs(self, name: str, own: Tensor, base: Tensor) -> UserError:
        return UserError(
            f"{self.where}: {self.why} ({name} is {_shown(own)}, in the bank {_shown(base)})"
        )


def _equal(first: Tensor, second: Tensor) -> bool:
    """Whether tensors have the same type, shape and bits."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    left, right = (array_of(tensor).reshape(-1).view(np.uint8) for tensor in (first, second))
    return np.array_equal(left, right)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).partition(".")[2]


def _shown(tensor: Tensor) -> str:
    return checksum({}, {"": array_of(tensor)})[:_SHOWN]


def _about(state: Mapping[str, Any], path: PathLike) -> dict[str, Any]:
    """What a checkpoint's outputs stand for, and where it came from."""
    return {
        **_outputs(state, Path(path)),
        "updates": updates_of(state) or 0,
        "provenance": state.get(PROVENANCE) or {},
        "source": digest(path),
    }


def _outputs(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if is_labelling(state["cfg"].model._name):
        slots = saved_slots(state, path)
        if slots is None:
            raise UserError(f"{path} is damaged: it lacks the classes that its outputs stand for")
        count = sum(len(slot.classes) for slot in slots)
        return {"kind": LABELS, "labels": count, **described_slots(slots)}
    dictionary = find_dictionary(state, state["cfg"], path, None)
    counted = counted_symbols(dictionary)
    kind = LETTERS if spells_words(dictionary) else UNITS
    return {"kind": kind, "labels": len(counted), "target_dictionary": counted}


def _validated(path: PathLike, state: Mapping[str, Any], kind: str) -> ErrorRate | None:
    """The error rate of this very checkpoint in its training's validation; None without one."""
    saved = read_saved(Path(path)) if updates_of(state) is not None else None
    if saved is None or saved.valid is None:
        return None
    measured, _, split = saved.metric.partition(",")[0].partition(" of ")
    if kind == LABELS:
        return (
            ErrorRate(100 - saved.valid, rate_of(kind), split) if measured == "accuracy" else None
        )
    # Fairseq's units are the symbols, which are letters of words here.
    names = {"wer": rate_of(kind), "uer": "CER" if kind == LETTERS else rate_of(kind)}
    return ErrorRate(saved.valid, names[measured], split) if measured in names else None


def _settings(cfg: Any, bank: Bank, masks: MaskSet) -> dict[str, Any]:
    """The settings of a checkpoint with its masks fixed, and those of pretraining that it has
    changed."""
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
        for section in ("task", "model")
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
