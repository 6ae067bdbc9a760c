"""What a run takes from a checkpoint has the classes of the run's own data, in their order."""

from typing import Any, Mapping, Optional

from fairseq.file_io import PathManager

from speechprune.checkpoint import read
from speechprune.checkpoint.slots import refuse_other_slots, saved_slots
from speechprune.errors import UserError
from speechprune.manifests.slots import CLASS_DICTIONARY, Slots
from speechprune.replacing import Function


def compare_outputs(
    path: Any, state: Mapping[str, Any], cfg: Any, own: Optional[Slots], *, goes_on: bool
) -> None:
    """Refuse a checkpoint to begin from, or to go on from, whose outputs stand for other classes.

    Args:
        path, state: the checkpoint.
        cfg: all groups of the run's config.
        own: the slots of the run's data; None if its outputs are no classes.
        goes_on: whether the run goes on with the checkpoint's optimizer.

    Raises:
        UserError: only one of both is for labels, or as `refuse_other_slots`.
    """
    if not goes_on and "load_mask_only" in cfg.model and cfg.model.load_mask_only:
        return
    found = saved_slots(state, path)
    if own is None:
        if found is not None:
            names = ", ".join(slot.name for slot in found)
            raise UserError(
                f"{path} is a model for labels ({names}), whose head is none for "
                f"{cfg.model._name}; begin from a pretrained model, or give its masks alone"
            )
        return
    if found is None:
        raise UserError(
            f"{path} is no model for labels, so its outputs are no classes; begin from a "
            "pretrained model, or take its masks alone by model.load_mask_only=true"
        )
    refuse_other_slots(path, found, own, f"{cfg.task.data}/{CLASS_DICTIONARY}")


def comparing_classes(load: Function) -> Function:
    """`Trainer.load_checkpoint`, which compares the classes of what it loads with the run's.

    fairseq compares none: a head would tell other classes without a word.
    """

    def load_compared(
        self: Any, filename: str, reset_optimizer: bool = False, *args: Any, **options: Any
    ) -> Any:
        own = getattr(self.task, "slots", None)
        if own is not None and PathManager.isfile(filename):
            state = read(filename, mmap=True)
            compare_outputs(filename, state, self.cfg, own, goes_on=not reset_optimizer)
        return load(self, filename, reset_optimizer, *args, **options)

    return load_compared
