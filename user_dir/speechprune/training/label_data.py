"""Labels that would stop a run, or spoil it, found before anything is built."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from speechprune.criterions.names import LABELS
from speechprune.errors import UserError
from speechprune.manifests.check import SplitSummary, check_split
from speechprune.manifests.classes import LabelledSplit, read_labelled_split
from speechprune.manifests.slots import count_classes, read_slots
from speechprune.tasks.audio_labels import balanced_slot


def metrics_of_slots(cfg: DictConfig) -> tuple[str, ...]:
    """What the criterion measures of single slots, if there are several."""
    if cfg.criterion._name != LABELS:
        return ()
    slots = read_slots(Path(cfg.task.data))
    return tuple(f"accuracy_{slot.name}" for slot in slots) if len(slots) > 1 else ()


def check_labels(cfg: DictConfig) -> list[SplitSummary]:
    """Check what the run will read: the training split, then each validation split.

    Args:
        cfg: all groups of a fairseq config.

    Raises:
        UserError: as `check_split` and `read_labelled_split`, or nothing to train a class on.
    """
    task, dataset = cfg.task, cfg.dataset
    balanced_slot(task, read_slots(Path(task.data)))
    limit = dataset.max_tokens
    if task.crop_seconds and limit and task.crop_seconds * task.sample_rate <= limit:
        limit = None  # what is longer is cropped
    summaries = [_check_split(cfg, dataset.train_subset, limit)]
    _refuse_untrained(read_labelled_split(Path(task.data), dataset.train_subset))
    if not dataset.disable_validation:
        for name in dataset.valid_subset.split(","):
            summaries.append(_check_split(cfg, name, dataset.max_tokens_valid))
            read_labelled_split(Path(task.data), name)
    return summaries


def _check_split(cfg: DictConfig, name: str, max_tokens: int | None) -> SplitSummary:
    task = cfg.task
    return check_split(
        task.data, name, labels=None, sample_rate=task.sample_rate, max_tokens=max_tokens
    )


def _refuse_untrained(split: LabelledSplit) -> None:
    """Raise UserError if a class has no utterance to be learnt from."""
    counts = count_classes(split.slots, (u.labels for u in split.utterances))
    empty = [(slot, name) for slot, found in counts.items() for name, n in found.items() if not n]
    if empty:
        slot, name = empty[0]
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise UserError(
            f"no utterance of {split.name} has the class {name!r} of slot {slot!r}{more}, for "
            "which the head has an output; add some, or prepare the corpus without it"
        )
