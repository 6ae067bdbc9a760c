"""Averaging: the mean of several checkpoints of one training run, as one more checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechprune import __version__
from speechprune.checkpoint.file import PathLike, read, write
from speechprune.checkpoint.finetuned import PROVENANCE
from speechprune.errors import UserError
from speechprune.masking.masked_weight import mask_key, regrown_key, scores_key

#: What makes a checkpoint good: its value in validation, or being late.
CRITERIA = ("valid", "last")

#: The provenance of files that were made of a run's checkpoints, and not saved by the run.
_MADE_OF_CHECKPOINTS = ("averaged", "folded_from", "layers_dropped_from")

_START = {"epoch": 1, "iterations_in_epoch": 0}


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that a training run saved.

    Attributes:
        valid: what validating this very update gave; None if that is no finite number or missing.
        measure: which value that is, of which subset, and which direction is better.
        maximize: that direction.
    """

    path: Path
    updates: int
    valid: float | None
    measure: str
    maximize: bool

    @property
    def rank(self) -> tuple[float, int]:
        """The smaller the better; the later update first among equal values."""
        assert self.valid is not None
        return (-self.valid if self.maximize else self.valid, -self.updates)

    def describe(self) -> dict[str, Any]:
        """What an average remembers of it."""
        return {"file": self.path.name, "updates": self.updates, "valid": self.valid}


@dataclass(frozen=True)
class Average:
    """What was averaged.

    Attributes:
        out: the file that was written.
        by: one of CRITERIA.
        asked: how many checkpoints were to be averaged.
        averaged: which ones were, the best or latest first.
        unvalidated: how many updates were passed over, by "valid", for want of a value.
    """

    out: Path
    by: str
    asked: int
    averaged: tuple[SavedCheckpoint, ...]
    unvalidated: int


def average(
    run: PathLike, out: PathLike | None = None, *, num: int = 10, by: str = "valid"
) -> Average:
    """Average checkpoints of the training run in the folder ``run``; fewer if there are fewer.

    Files of one update count once, and what was averaged or folded before counts not at all. What
    is written is the newest of the averaged checkpoints with other weights: it has no optimizer
    state, no validation value, and nothing of what PARP's removed weights had grown to.

    Args:
        out: ``checkpoints/checkpoint_average.pt`` of the run, if it is not given.
        num: how many at most.
        by: "valid", the best by `checkpoint.best_checkpoint_metric`, or "last".

    Raises:
        UserError: there is nothing to average, a checkpoint is damaged, checkpoints disagree in
            names, shapes, masks or counters, ``out`` is one of the run's own checkpoints or cannot
            be written.
    """
    if num < 1 or by not in CRITERIA:
        raise UserError(
            f"num={num} by={by}: num must be at least 1, and by one of {', '.join(CRITERIA)}"
        )
    folder = Path(run) / "checkpoints"
    saved = _saved_checkpoints(folder)
    out = folder / "checkpoint_average.pt" if out is None else Path(out)
    if out.resolve() in [checkpoint.path.resolve() for checkpoint in saved]:
        raise UserError(f"{out} would be overwritten; give another file to write to")
    candidates = _once_per_update(saved)
    validated = [c for c in candidates if c.valid is not None]
    if by == "valid":
        chosen = _best_first(validated, folder)[:num]
    else:
        chosen = sorted(candidates, key=lambda c: -c.updates)[:num]
    write(_averaged_state(chosen, by), out)
    unvalidated = len(candidates) - len(validated) if by == "valid" else 0
    return Average(out, by, num, tuple(chosen), unvalidated)


def _saved_checkpoints(folder: Path) -> list[SavedCheckpoint]:
    """All that a run saved, by name; raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder.parent} is not the folder of a training run: no {folder}")
    found = []
    for path in sorted(folder.glob("*.pt")):
        state = read(path, mmap=True)
        provenance = state.get(PROVENANCE) or {}
        if not any(fact in provenance for fact in _MADE_OF_CHECKPOINTS):
            found.append(_saved_checkpoint(path, state))
    if not found:
        raise UserError(f"{folder} holds no checkpoints to average; give the folder of a run")
    return found


def _saved_checkpoint(path: Path, state: Mapping[str, Any]) -> SavedCheckpoint:
    try:
        updates = int(state["optimizer_history"][-1]["num_updates"])
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{path} does not tell its number of updates: no training run saved it; move it away"
        ) from error
    metric = _setting(state, "checkpoint", "best_checkpoint_metric", "loss")
    maximize = bool(_setting(state, "checkpoint", "maximize_best_checkpoint_metric", False))
    # fairseq compares checkpoints by the first subset only.
    subset = str(_setting(state, "dataset", "valid_subset", "valid")).split(",")[0]
    direction = "larger" if maximize else "smaller"
    measure = f"{metric} of {subset}, the {direction} the better"
    return SavedCheckpoint(path, updates, _own_value(state), measure, maximize)


def _setting(state: Mapping[str, Any], section: str, name: str, default: Any) -> Any:
    """A setting of training; those of 2020 have no sections."""
    cfg = state.get("cfg")
    settings = (cfg.get(section) or {}) if cfg else vars(state["args"])
    value = settings.get(name)
    return default if value is None else value


def _own_value(state: Mapping[str, Any]) -> float | None:
    """What validation gave for exactly these weights.

    fairseq saves None with a checkpoint that it did not validate, never an older value. But a file
    of ours that was made of another checkpoint, by `masks apply`, has the value of that one.
    """
    value = (state.get("extra_state") or {}).get("val_loss")
    if value is None or state.get(PROVENANCE) or not math.isfinite(value):
        return None
    return float(value)


def _once_per_update(saved: Sequence[SavedCheckpoint]) -> list[SavedCheckpoint]:
    """One file of each update: one with a value if there is one, and the first name."""
    found: dict[int, SavedCheckpoint] = {}
    for checkpoint in sorted(saved, key=lambda c: (c.valid is None, c.path.name)):
        found.setdefault(checkpoint.updates, checkpoint)
    return list(found.values())


def _best_first(validated: Sequence[SavedCheckpoint], folder: Path) -> list[SavedCheckpoint]:
    """Ranks what has a value; raises UserError if nothing has, or if values are of two kinds."""
    if not validated:
        raise UserError(
            f"no checkpoint in {folder} has a validation value of its own: average --by last, or "
            "validate at each save (dataset.validate_interval_updates as "
            "checkpoint.save_interval_updates)"
        )
    first = validated[0]
    for other in validated:
        if other.measure != first.measure:
            raise UserError(
                f"{first.path} was validated by {first.measure}, but {other.path} by "
                f"{other.measure}: such values cannot be compared; average --by last"
            )
    return sorted(validated, key=lambda checkpoint: checkpoint.rank)


def _averaged_state(chosen: Sequence[SavedCheckpoint], by: str) -> dict[str, Any]:
    """The newest checkpoint with the mean weights, and without what belongs to its own weights."""
    newest, *others = (c.path for c in sorted(chosen, key=lambda c: -c.updates))
    state = read(newest, mmap=True)
    provenance = {
        **(state.get(PROVENANCE) or {}),
        "version": __version__,
        "averaged": [checkpoint.describe() for checkpoint in chosen],
        "averaged_by": by,
    }
    return {
        **state,
        "model": _mean(newest, state["model"], others),
        "last_optimizer_state": None,
        # The average has neither the validation value nor the EMA of the newest checkpoint, and
        # fairseq loads nothing without a place in the data.
        "extra_state": {"train_iterator": _START, "val_loss": None},
        PROVENANCE: provenance,
    }


def _mean(path: Path, tree: Mapping[str, Any], others: Sequence[Path]) -> dict[str, Any]:
    """The mean of the state dict ``tree``, read from ``path``, and those in other files.

    Summed in float64, one file at a time; each tensor has the type that it has in ``path``.
    """
    tree = _without_regrown(tree)
    first = _tensors(path, tree)
    kinds = {name: tensor.dtype for name, tensor in first.items() if tensor.is_floating_point()}
    sums = {name: first[name].to(torch.float64, copy=True) for name in kinds}
    for other in others:
        tensors = _tensors(other, _without_regrown(read(other, mmap=True)["model"]))
        _check_alike(path, first, other, tensors)
        for name, total in sums.items():
            total += tensors[name]
    # Popped, for a large model is not to be in memory in two types.
    mean = {n: sums.pop(n).div_(len(others) + 1).to(kind) for n, kind in kinds.items()}
    return _replaced(tree, mean)


def _without_regrown(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without what PARP's removed weights had grown to: only resuming needs that."""
    return {k: v for k, v in tree.items() if not k.endswith(regrown_key(""))}


def _tensors(path: Path, tree: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict by name, those of a teacher within it (``_ema``) too.

    Raises UserError if something is no tensor, or if it holds scores whose masks nobody knows.
    """
    tensors = dict(_leaves(tree))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path}: {name} is no tensor and cannot be averaged")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                f"{path}: {name} is not finite, and neither would the average be; remove the file"
            )
        owner, _, last = name.rpartition(".")
        if last == scores_key("weight") and f"{owner}.{mask_key('weight')}" not in tensors:
            raise UserError(
                f"{path}: {name} has no mask beside it, and nobody could tell whether masks agree; "
                "put masks in with `speechprune masks export` and `masks apply`"
            )
    return tensors


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
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
    """Raises UserError unless two checkpoints have the same names, shapes, masks and counters."""
    for name in dict.fromkeys([*first, *second]):
        if name not in first or name not in second:
            has, lacks = (path, other) if name in first else (other, path)
            raise UserError(f"{name} is in {has} but not in {lacks}: they are of two models")
        one, two = first[name], second[name]
        if one.shape != two.shape or one.is_floating_point() != two.is_floating_point():
            forms = f"{_form(one)} in {path} but {_form(two)} in {other}"
            raise UserError(f"{name} is {forms}: they are of two models")
        if one.is_floating_point() or torch.equal(one, two):
            continue
        if name.endswith(mask_key("")):
            raise UserError(
                f"{name} differs between {path} and {other}: checkpoints with different masks "
                "cannot be averaged, for the average would not be the sparse network that is "
                "claimed; average a run with fixed masks (model._name=wav2vec_ctc_masked or "
                "model.fix_mask=true)"
            )
        raise UserError(
            f"{name}, {_form(one)}, differs between {path} and {other}, and such tensors have no "
            "mean; leave one of the files out with a smaller --num"
        )


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).partition('.')[2]} {list(tensor.shape)}"
