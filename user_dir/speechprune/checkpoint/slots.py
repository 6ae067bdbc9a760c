"""What the outputs of a model for labels stand for: its slots with their classes, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speechprune.checkpoint.file import PathLike
from speechprune.errors import UserError
from speechprune.manifests.slots import Slot, Slots
from speechprune.state_names import OUTPUT_BIAS

#: What fairseq's registry calls the task of such models.
AUDIO_LABELS = "audio_labels"
#: Where a checkpoint's `task_state` has them.
SLOTS = "slots"


def described_slots(slots: Slots) -> dict[str, Any]:
    """Slots as a checkpoint's ``task_state``, of plain containers."""
    return {SLOTS: [[slot.name, list(slot.classes)] for slot in slots]}


def saved_slots(state: Mapping[str, Any], path: PathLike = "the checkpoint") -> Slots | None:
    """The slots in the checkpoint at ``path``; None if it holds none, as those of other tasks.

    Raises:
        UserError: they are damaged, or more or fewer classes than the model has outputs.
    """
    found = (state.get("task_state") or {}).get(SLOTS)
    if found is None:
        return None
    if not _are_slots(found):
        raise UserError(f"{path} is damaged: its slots are not lists of classes by name")
    try:
        slots = tuple(Slot(name, tuple(classes)) for name, classes in found)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    bias = state.get("model", {}).get(OUTPUT_BIAS)
    classes = sum(len(slot.classes) for slot in slots)
    if bias is not None and bias.numel() != classes:
        raise UserError(
            f"{path} is damaged: its slots have {classes} classes, but its head "
            f"{bias.numel()} outputs"
        )
    return slots


def _are_slots(found: Any) -> bool:
    return (
        isinstance(found, list)
        and bool(found)
        and all(isinstance(entry, (list, tuple)) and len(entry) == 2 for entry in found)
        and all(
            isinstance(name, str)
            and isinstance(classes, (list, tuple))
            and all(isinstance(each, str) for each in classes)
            for name, classes in found
        )
    )


def refuse_other_slots(path: PathLike, found: Slots, own: Slots, source: PathLike) -> None:
    """Raise UserError unless a checkpoint's outputs stand for the classes of a run, in order.

    Args:
        path, found: the checkpoint and its slots.
        own, source: the run's slots, and where they are from.
    """
    if found == own:
        return
    raise UserError(
        f"{_difference(path, found, own, source)}; give a data folder with the dict.lbl.txt that "
        "it was trained with, or begin from a pretrained model for new outputs"
    )


def _difference(path: PathLike, found: Slots, own: Slots, source: PathLike) -> str:
    names, own_names = [slot.name for slot in found], [slot.name for slot in own]
    if names != own_names:
        return f"{path} tells {', '.join(names)}, but {source} lists {', '.join(own_names)}"
    for slot, other in zip(found, own):
        lacking = [name for name in other.classes if name not in slot.classes]
        unused = [name for name in slot.classes if name not in other.classes]
        where = f"of the slot {slot.name!r}"
        if lacking:
            return f"{path} has no output for {_first(lacking)} {where}, which {source} lists"
        if unused:
            return f"{source} lacks {_first(unused)} {where}, which {path} has"
    return f"{source} lists the classes of {path} in another order"


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"
