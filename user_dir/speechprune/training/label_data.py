"""Labels that would stop a run, or spoil it, found before anything is built."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from speechprune.checkpoint.slots import AUDIO_LABELS
from speechprune.criterions.names import LABELS
from speechprune.errors import UserError
from speechprune.manifests.check import SplitSummary, check_split
from speechprune.manifests.classes import LabelledSplit, read_labelled_split
from speechprune.manifests.slots import count_classes, read_slots
from speechprune.models.names import is_labelling
from speechprune.tasks.audio_labels import balanced_slot


def check_parts(cfg: DictConfig) -> None:
    """Refuse a model, a task and a criterion of which only some are for labels of utterances."""
    parts = {
        f"model._name={cfg.model._name}": is_labelling(cfg.model._name),
        f"task._name={cfg.task._name}": cfg.task._name == AUDIO_LABELS,
        f"criterion._name={cfg.criterion._name}": cfg.criterion._name == LABELS,
    }
    of_labels = [part for part, is_so in parts.items() if is_so]
    others = [part for part, is_so in parts.items() if not is_so]
    if of_labels and others:
        raise UserError(
            f"{of_labels[0]} is for labels of utterances, but {' and '.join(others)} not; "
            "take --config-name labels/base, or another model, task and criterion"
        )


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
