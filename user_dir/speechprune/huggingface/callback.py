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


class MaskCallback(TrainerCallback):
    """Chooses the masks of a model at each update of `transformers.Trainer`.

    It logs their density, writes them as a file into each checkpoint, whose model holds them and
    their scores too, and bakes them in at the end. `resume_from_checkpoint` goes on bit for bit,
    with a model that has masks of the same kind on.

    Args:
        fold: bake the masks in at the end of training; else they stay on the model.
    """

    def __init__(self, *, fold: bool = True) -> None:
        self.fold = fold

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Raise UserError if the model has no masks, or training does not suit them."""
        masks = masks_of(parts["model"])
        for wrong, name in ((args.deepspeed, "deepspeed"), (args.fsdp, "fsdp")):
            if wrong:
                raise UserError(f"{name} splits tensors, which have masks as a whole: leave it out")
        _check_end(masks, state.max_steps)

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
        """Bake the masks in."""
        masks_of(parts["model"]).settle()
        if self.fold:
            fold(parts["model"])


def _check_end(masks: ModelMasks, updates: int) -> None:
    """The last choice of masks must be one at the density that the schedule ends with."""
    last = masks.timetable.last_selection(updates)
    for site in masks.sites:
        found, target = (masks.schedule.density(site, each) for each in (last, 1 << 60))
        if found != target:
            raise UserError(
                f"the density {target:g} would never be reached: masks are chosen for the last "
                f"time at update {last} of {updates}, at {found:.4g}; let the schedule end "
                "earlier, or choose masks more often"
            )
