"""What a run takes from a checkpoint spells the symbols of the run's own dictionary."""

import functools
import logging
from contextlib import contextmanager
from typing import Any, Iterator, Mapping, Optional

from fairseq import checkpoint_utils
from fairseq.data.dictionary import Dictionary
from fairseq.file_io import PathManager
from torch import Tensor

from speechprune.checkpoint import read
from speechprune.checkpoint.outputs import (
    has_outputs,
    reorder_outputs,
    rows_by_symbol,
    saved_dictionary,
)
from speechprune.errors import UserError
from speechprune.manifests.dictionary import dictionary_name
from speechprune.replacing import Function

logger = logging.getLogger(__name__)


def rows_to_take(
    path: str, state: Mapping[str, Any], own: Dictionary, cfg: Any, *, goes_on: bool
) -> Optional[Tensor]:
    """Which row of a checkpoint's head each symbol of a run takes; None if nothing is to be moved.

    Args:
        path, state: the checkpoint that the run begins from or goes on from.
        own: the run's dictionary.
        cfg: all groups of the run's config.
        goes_on: whether the run goes on with the checkpoint's optimizer.

    Raises:
        UserError: the checkpoint is of other symbols, or its optimizer of another order.
    """
    task, model = cfg.task, cfg.model
    found = saved_dictionary(state)
    if not has_outputs(state) or found is None:
        return None
    takes_masks_only = not goes_on and "load_mask_only" in model and model.load_mask_only
    if takes_masks_only and model.no_prune_proj:
        return None
    folder = task.target_dictionary if "target_dictionary" in task else None
    source = f"{folder or task.data}/{dictionary_name(task.labels)}"
    rows = rows_by_symbol(path, found, own, source)
    trains = not ("eval_only" in model and model.eval_only)
    if rows is not None and goes_on and trains and state.get("last_optimizer_state"):
        raise UserError(
            f"{source} has the symbols of {path} in another order, which its optimizer cannot "
            "follow; give the dictionary that the run began with as task.target_dictionary="
            f"FOLDER, or begin a new run with checkpoint.finetune_from_model={path}"
        )
    return rows


def following_symbols(load: Function) -> Function:
    """`Trainer.load_checkpoint`, bringing the head of what it loads into the order of the run's
    symbols.

    fairseq compares no dictionaries: a head would spell other letters without a word.
    """

    def load_by_symbol(
        self: Any, filename: str, reset_optimizer: bool = False, *args: Any, **options: Any
    ) -> Any:
        rows, own = None, getattr(self.task, "target_dictionary", None)
        if isinstance(own, Dictionary) and PathManager.isfile(filename):
            state = read(filename, mmap=True)
            _warn_of_unnamed_outputs(filename, state)
            rows = rows_to_take(filename, state, own, self.cfg, goes_on=not reset_optimizer)
        if rows is None:
            return load(self, filename, reset_optimizer, *args, **options)
        logger.info(f"{filename} has its symbols in another order: its head follows the data's")
        with _reordering(rows):
            return load(self, filename, reset_optimizer, *args, **options)

    return load_by_symbol


def _warn_of_unnamed_outputs(path: str, state: Mapping[str, Any]) -> None:
    if has_outputs(state) and saved_dictionary(state) is None:
        logger.warning(
            f"{path} holds no dictionary: its outputs are taken for the symbols of task.data, in "
            "their order"
        )


@contextmanager
def _reordering(rows: Tensor) -> Iterator[None]:
    """Reorder the head of what fairseq reads."""
    load = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(load)
    def load_reordered(*args: Any, **options: Any) -> Any:
        return reorder_outputs(load(*args, **options), rows)

    checkpoint_utils.load_checkpoint_to_cpu = load_reordered
    try:
        yield
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = load
