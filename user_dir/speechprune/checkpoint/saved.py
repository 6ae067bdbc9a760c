"""What a training run saved: its checkpoints, when, and how good they were in validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechprune.checkpoint.file import PROVENANCE, read
from speechprune.checkpoint.layers import lost_layers
from speechprune.checkpoint.settings import setting, updates_of
from speechprune.checkpoint.slimming import kept_units_in, slim_plan_in
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan
from speechprune.masking.bits import popcount
from speechprune.slimming.plan import SlimPlan
from speechprune.state_names import is_mask

#: The provenance of files that were made of a run's checkpoints, and not saved by the run.
_MADE_OF_CHECKPOINTS = ("averaged", "folded_from", "layers_dropped_from", "slimmed_from")


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that a training run saved.

    Attributes:
        valid: what validating this very update gave; None if it is missing or not finite.
        metric: which value that is, of which subset, and which direction is better.
        maximize: that direction.
        kept: entries that its masks keep, all together; None if it has none.
        lost: the layers that it was trained without, if that is known.
        slim_plan: the heads and channels that it has kept; None if it has all.
        kept_units: those of them that slimming in the run has kept by now; empty if it is none.
    """

    path: Path
    updates: int
    valid: float | None
    metric: str
    maximize: bool
    kept: int | None = None
    lost: LayerPlan | None = None
    slim_plan: SlimPlan | None = None
    kept_units: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[float, int]:
        """The smaller the better; the later update first among equal values."""
        assert self.valid is not None
        return (-self.valid if self.maximize else self.valid, -self.updates)

    def describe(self) -> dict[str, Any]:
        """What an average remembers of it."""
        return {"file": self.path.name, "updates": self.updates, "valid": self.valid}


def saved_checkpoints(folder: Path) -> list[SavedCheckpoint]:
    """All that a run saved, by name; raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder.parent} is not the folder of a training run: no {folder}")
    read_all = map(read_saved, sorted(folder.glob("*.pt")))
    found = [saved for saved in read_all if saved is not None]
    if not found:
        raise UserError(f"{folder} holds no checkpoints to average; give the folder of a run")
    return found


def read_saved(path: Path) -> SavedCheckpoint | None:
    """What a run saved at ``path``; None if the file was made of a run's checkpoints.

    Raises UserError if it cannot be read, or no run saved it.
    """
    state = read(path, mmap=True)
    if any(fact in (state.get(PROVENANCE) or {}) for fact in _MADE_OF_CHECKPOINTS):
        return None
    updates = updates_of(state)
    if updates is None:
        raise UserError(
            f"{path} does not tell its number of updates: no training run saved it; move it away"
        )
    name = setting(state, "checkpoint", "best_checkpoint_metric", "loss")
    maximize = bool(setting(state, "checkpoint", "maximize_best_checkpoint_metric", False))
    # fairseq compares checkpoints by the first subset only.
    subset = str(setting(state, "dataset", "valid_subset", "valid")).split(",")[0]
    direction = "larger" if maximize else "smaller"
    metric = f"{name} of {subset}, the {direction} the better"
    return SavedCheckpoint(
        path,
        updates,
        _own_value(state),
        metric,
        maximize,
        kept=_kept(state["model"]),
        lost=lost_layers(state),
        slim_plan=slim_plan_in(state),
        kept_units=kept_units_in(state["model"]),
    )


def _kept(tensors: Mapping[str, Any]) -> int | None:
    masks = [bits for name, bits in tensors.items() if is_mask(name)]
    return sum(popcount(bits.numpy()) for bits in masks) if masks else None


def _own_value(state: Mapping[str, Any]) -> float | None:
    """What validation gave for exactly these weights.

    fairseq saves None with a checkpoint that it did not validate, never an older value. But a file
    of ours that was made of another checkpoint, by `masks apply`, has the value of that one.
    """
    value = (state.get("extra_state") or {}).get("val_loss")
    if value is None or state.get(PROVENANCE) or not math.isfinite(value):
        return None
    return float(value)


def once_per_update(saved: Sequence[SavedCheckpoint]) -> list[SavedCheckpoint]:
    """One file of each update: one with a value if there is one, and the first name."""
    found: dict[int, SavedCheckpoint] = {}
    for checkpoint in sorted(saved, key=lambda c: (c.valid is None, c.path.name)):
        found.setdefault(checkpoint.updates, checkpoint)
    return list(found.values())


def as_sparse_as_the_newest(saved: Sequence[SavedCheckpoint]) -> list[SavedCheckpoint]:
    """Those whose masks keep as much as those of the newest, the network that a run claims.

    Those that slimming had left other heads and channels are passed over too: a mean would bring
    some of them back.

    Raises UserError if some were trained without other layers, heads or channels than the newest.
    """
    newest = max(saved, key=lambda checkpoint: checkpoint.updates)
    for other in saved:
        if other.lost != newest.lost:
            raise UserError(
                f"{other.path} and {newest.path} have lost different layers: they are not of one "
                "run"
            )
        if other.slim_plan != newest.slim_plan:
            raise UserError(
                f"{other.path} and {newest.path} have kept different heads or channels (their slim "
                "plans differ): they are not of one run"
            )
    return [
        checkpoint
        for checkpoint in saved
        if checkpoint.kept == newest.kept and checkpoint.kept_units == newest.kept_units
    ]


def best_first(validated: Sequence[SavedCheckpoint], folder: Path) -> list[SavedCheckpoint]:
    """Ranks what has a value; raises UserError if nothing has, or if values are of two kinds."""
    if not validated:
        raise UserError(
            f"no checkpoint in {folder} has a validation value of its own: average --by last, or "
            "validate at each save (dataset.validate_interval_updates as "
            "checkpoint.save_interval_updates)"
        )
    first = validated[0]
    for other in validated:
        if other.metric != first.metric:
            raise UserError(
                f"{first.path} was validated by {first.metric}, but {other.path} by "
                f"{other.metric}: such values cannot be compared; average --by last"
            )
    return sorted(validated, key=lambda checkpoint: checkpoint.rank)
