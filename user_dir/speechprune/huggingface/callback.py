"""Masks in `transformers.Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from speechprune.errors import UserError
from speechprune.huggingface.masks import ModelMasks, fold, masks_of

#: The masks in the folder of a checkpoint.
MASK_FILE = "masks.safetensors"
#: An update after the end of any schedule.
_END = 1 << 60


class MaskCallback(TrainerCallback):
    """Chooses the masks of a model at each update of `transformers.Trainer`.

    It logs their density, writes them as a file into each checkpoint, whose model holds them and
    their scores too, and bakes them in at the end. `resume_from_checkpoint` goes on bit for bit,
    with a model that has masks of the same settings on.

    Args:
        fold: bake the masks in at the end of training; else they stay on the model. Masks that
            keep more than the schedule ends with are not baked in: training was stopped early, or
            the best checkpoint is an early one.
    """

    def __init__(self, *, fold: bool = True) -> None:
        self.fold = fold

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Raise UserError if the model has no masks, or training does not suit them, or goes on
        from masks of other settings."""
        masks = masks_of(parts["model"])
        for wrong, name in ((args.deepspeed, "deepspeed"), (args.fsdp, "fsdp")):
            if wrong:
                raise UserError(f"{name} splits tensors, which have masks as a whole: leave it out")
        _check_end(masks, state.max_steps)
        if state.global_step:
            _refuse_other_masks(masks, state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Choose the masks of the update that begins."""
        masks_of(parts["model"]).set_num_updates(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Let the policy see the gradients of the update."""
        masks_of(parts["model"]).observe()

    def on_log(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Add the density to what is logged of training."""
        logs = parts["logs"]
        if "loss" in logs:
            density = masks_of(parts["model"]).stats()["density"]
            logs["density"] = state.log_history[-1]["density"] = density

    def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Write the masks into the checkpoint that was just written."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        updates = {"updates": str(state.global_step)}
        masks_of(parts["model"]).mask_set(updates).save(folder / MASK_FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Bake the masks in; raise UserError if they keep more than they are to in the end."""
        masks = masks_of(parts["model"])
        masks.settle()
        if self.fold:
            _refuse_denser(masks)
            fold(parts["model"])


def _check_end(masks: ModelMasks, updates: int) -> None:
    """The last choice of masks must be one at the density that the schedule ends with."""
    last = masks.timetable.last_selection(updates)
    for site in masks.sites:
        found, target = (masks.schedule.density(site, each) for each in (last, _END))
        if found != target:
            raise UserError(
                f"the density {target:g} would never be reached: masks are chosen for the last "
                f"time at update {last} of {updates}, at {found:.4g}; let the schedule end "
                "earlier, or choose masks more often"
            )


def _refuse_other_masks(masks: ModelMasks, updates: int) -> None:
    """Masks that were loaded must be as dense as the settings have them after some updates."""
    found = masks.mask_set().density
    # Those of the next update, but for policies that need its gradients to choose them.
    choices = [masks.timetable.last_selection(each) for each in (updates, updates - 1)]
    expected = [masks.density_at(update) for update in choices]
    if all(abs(found - each) > _rounding(masks) for each in expected):
        raise UserError(
            f"the checkpoint's masks keep {found:.4g}, but those on the model are to keep "
            f"{expected[0]:.4g} after {updates} updates; go on with the settings of the run"
        )


def _refuse_denser(masks: ModelMasks) -> None:
    found, target = masks.mask_set().density, masks.density_at(_END)
    if found > target + _rounding(masks):
        raise UserError(
            f"the masks keep {found:.4g}, not the {target:.4g} that the schedule ends with: "
            "training ended early, or went back to an early checkpoint. Train on, leave out "
            "load_best_model_at_end, or bake them in as they are with speechprune.huggingface.fold"
        )


def _rounding(masks: ModelMasks) -> float:
    """By how much a density that is ranked over all sites can differ from one of each: an entry a
    site."""
    return len(masks.sites) / masks.mask_set().tally.total
