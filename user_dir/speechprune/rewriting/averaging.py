"""Averaging: the mean of several checkpoints of one training run, as one more checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechprune.checkpoint.file import PathLike, read
from speechprune.checkpoint.outputs import saved_dictionary
from speechprune.checkpoint.saved import (
    SavedCheckpoint,
    as_sparse_as_the_newest,
    best_first,
    once_per_update,
    saved_checkpoints,
)
from speechprune.checkpoint.slots import saved_slots
from speechprune.errors import UserError
from speechprune.files import refuse_to_replace
from speechprune.locks import locked
from speechprune.masking.bits import unpack_bits
from speechprune.masking.injection import grown_again
from speechprune.models.loading import load_finetuned
from speechprune.rewriting.rewriting import Rewriting
from speechprune.state_names import is_mask, is_regrown, mask_key, masked_key, sibling

#: What makes a checkpoint good: its value in validation, or being late.
CRITERIA = ("valid", "last")

_START = {"epoch": 1, "iterations_in_epoch": 0}


@dataclass(frozen=True)
class Average:
    """What was averaged.

    Attributes:
        out: the file that was written.
        by: one of CRITERIA.
        asked: how many checkpoints were to be averaged.
        averaged: which ones were, the best or latest first.
        of_other_density: how many updates were passed over for keeping more, or less, than the
            newest.
        unvalidated: how many others were, by "valid", for want of a value.
        masks_chosen_anew: whether their masks differed.
    """

    out: Path
    by: str
    asked: int
    averaged: tuple[SavedCheckpoint, ...]
    of_other_density: int
    unvalidated: int
    masks_chosen_anew: bool


def average(
    run: PathLike, out: PathLike | None = None, *, num: int = 10, by: str = "valid"
) -> Average:
    """Average checkpoints of the training run in the folder ``run``; fewer if there are fewer.

    Files of one update count once, and what was averaged or folded before counts not at all; nor
    do checkpoints whose masks keep more, or less, than those of the newest. What is written is the
    newest of the averaged checkpoints with other weights: it has no optimizer state, no validation
    value, and nothing of what PARP's removed weights had grown to.

    A mean of networks with different masks would be denser than each. Where masks differ, scores
    are averaged, and weights as they had grown while they were removed; from these means masks are
    chosen as in training, each as dense as in the newest checkpoint.

    Args:
        out: ``checkpoints/checkpoint_average.pt`` of the run, if it is not given.
        num: how many at most.
        by: "valid", the best by `checkpoint.best_checkpoint_metric`, or "last".

    Raises:
        UserError: there is nothing to average, a checkpoint is damaged, checkpoints disagree in
            names, shapes, counters or lost layers, ``out`` is one of the run's own checkpoints or
            cannot be written, or lies among them while another process trains there.
    """
    if num < 1 or by not in CRITERIA:
        raise UserError(
            f"num={num} by={by}: num must be at least 1, and by one of {', '.join(CRITERIA)}"
        )
    folder = Path(run) / "checkpoints"
    out = folder / "checkpoint_average.pt" if out is None else Path(out)
    is_in_run = folder.is_dir() and out.resolve().parent == folder.resolve()
    with locked(folder) if is_in_run else nullcontext():
        return _average(folder, out, num, by)


def _average(folder: Path, out: Path, num: int, by: str) -> Average:
    saved = saved_checkpoints(folder)
    refuse_to_replace(out, *(checkpoint.path for checkpoint in saved))
    all_updates = once_per_update(saved)
    candidates = as_sparse_as_the_newest(all_updates)
    of_other_density, unvalidated = len(all_updates) - len(candidates), 0
    if by == "valid":
        validated = [c for c in candidates if c.valid is not None]
        unvalidated = len(candidates) - len(validated)
        chosen = best_first(validated, folder)[:num]
    else:
        chosen = sorted(candidates, key=lambda c: -c.updates)[:num]
    _refuse_other_outputs([checkpoint.path for checkpoint in chosen])
    differ = not _have_equal_masks([checkpoint.path for checkpoint in chosen])
    _write_average(chosen, by, differ, out)
    return Average(out, by, num, tuple(chosen), of_other_density, unvalidated, differ)


def _refuse_other_outputs(paths: Sequence[Path]) -> None:
    """Raise UserError unless the rows of all heads stand for the symbols of the first, in order."""
    states = [read(path, mmap=True) for path in paths]
    for path, state in zip(paths, states):
        first_slots, slots = saved_slots(states[0], paths[0]), saved_slots(state, path)
        if first_slots is not None and slots is not None and first_slots != slots:
            raise UserError(
                f"{paths[0]} and {path} have other classes, or the same in another order: their "
                "heads have no mean; move away those of one run"
            )
    dictionaries = [saved_dictionary(state) for state in states]
    for path, dictionary in zip(paths, dictionaries):
        first = dictionaries[0]
        if first is not None and dictionary is not None and dictionary.symbols != first.symbols:
            raise UserError(
                f"{paths[0]} and {path} have other symbols, or the same in another order: their "
                "heads have no mean; move away those of one dictionary"
            )


def _have_equal_masks(paths: Sequence[Path]) -> bool:
    """Whether all checkpoints have the masks of the first."""
    masks = [
        {k: v for k, v in read(path, mmap=True)["model"].items() if is_mask(k)} for path in paths
    ]
    return all(
        name not in other or torch.equal(mask, other[name])
        for other in masks[1:]
        for name, mask in masks[0].items()
    )


def _write_average(
    chosen: Sequence[SavedCheckpoint], by: str, masks_differ: bool, out: Path
) -> None:
    """The newest checkpoint with the mean weights, and without what belongs to its own weights."""
    paths = [checkpoint.path for checkpoint in sorted(chosen, key=lambda c: -c.updates)]
    rewriting = Rewriting(paths[0], out, *paths[1:])
    noted = {
        "averaged": [checkpoint.describe() for checkpoint in chosen],
        "averaged_by": by,
        "masks_chosen_anew": masks_differ,
    }
    mean = _mean(paths, _grown_again if masks_differ else _without_regrown)
    state = {
        **rewriting.state,
        "model": _with_masks_chosen_anew(paths[0], mean) if masks_differ else mean,
        "last_optimizer_state": None,
        # The average has neither the validation value nor the EMA of the newest checkpoint, and
        # fairseq loads nothing without a place in the data.
        "extra_state": {"train_iterator": _START, "val_loss": None},
    }
    rewriting.write(state, noted)


def _mean(paths: Sequence[Path], form: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """The mean of the state dicts in several files, in what is not averaged that of the first.

    Summed in float64, one file at a time; each tensor has the type that it has in the first.

    Args:
        form: what of a state dict is averaged.
    """
    tree = form(read(paths[0], mmap=True)["model"])
    first = dict(_leaves(tree))
    kinds = {name: tensor.dtype for name, tensor in first.items() if tensor.is_floating_point()}
    sums = {name: first[name].to(torch.float64, copy=True) for name in kinds}
    for path in paths[1:]:
        tensors = dict(_leaves(form(read(path, mmap=True)["model"])))
        _check_alike(paths[0], first, path, tensors)
        for name, total in sums.items():
            total += tensors[name]
    # Popped, for a large model is not to be in memory in two types.
    mean = {n: sums.pop(n).div_(len(paths)).to(kind) for n, kind in kinds.items()}
    return _replaced(tree, mean)


def _without_regrown(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without what PARP's removed weights had grown to: only resuming needs that."""
    return {k: v for k, v in tree.items() if not is_regrown(k)}


def _grown_again(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict whose removed weights have the values that they have in training."""
    grown = _without_regrown(tree)
    for key in filter(is_regrown, tree):
        name = masked_key(key)
        mask = unpack_bits(tree[sibling(name, mask_key)], tree[name].shape)
        grown[name] = grown_again(name, tree[name], mask, tree[key])
    return grown


def _with_masks_chosen_anew(path: Path, mean: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict of the model at ``path`` with masks as training would choose them from it.

    Raises UserError if training would not choose any.
    """
    loaded = load_finetuned(path)
    model: Any = loaded.model
    if loaded.cfg.model.get("fix_mask") or model.mask_controller.timetable.every is None:
        raise UserError(
            f"{path} has fixed masks, but another of the checkpoints has other ones: they are not "
            "of one run"
        )
    # As in training: masks that nothing can change would have to be those of the flags.
    model.requires_grad_(True).load_state_dict(mean)
    model.mask_controller.choose_as_many()
    chosen = model.state_dict()
    return {k: chosen[k].to(v.dtype) if k in chosen else v for k, v in mean.items()}


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict by name, those of a teacher within it (``_ema``) too."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", leaf) for name, leaf in _leaves(value))
        else:
            yield key, value


def _replaced(tree: Any, new: Mapping[str, Tensor], name: str = "") -> Any:
    """A state dict with other tensors under some of its names."""
    if not isinstance(tree, Mapping):
        return new.get(name, tree)
    prefix = f"{name}." if name else ""
    return {key: _replaced(value, new, prefix + key) for key, value in tree.items()}


def _check_alike(
    path: Path, first: Mapping[str, Tensor], other: Path, second: Mapping[str, Tensor]
) -> None:
    """Raises UserError unless two checkpoints have the same names, shapes and counters."""
    for name in dict.fromkeys([*first, *second]):
        if name not in first or name not in second:
            has, lacks = (path, other) if name in first else (other, path)
            raise UserError(f"{name} is in {has} but not in {lacks}: they are of two models")
        one, two = first[name], second[name]
        if one.shape != two.shape or one.is_floating_point() != two.is_floating_point():
            forms = f"{_form(one)} in {path} but {_form(two)} in {other}"
            raise UserError(f"{name} is {forms}: they are of two models")
        if one.is_floating_point() or is_mask(name) or torch.equal(one, two):
            continue
        raise UserError(
            f"{name}, {_form(one)}, differs between {path} and {other}, and such tensors have no "
            "mean; leave one of the files out with a smaller --num"
        )


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).partition('.')[2]} {list(tensor.shape)}"
