"""What a run leaves in its process, and the next run of a sweep must not go on with."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from fairseq import checkpoint_utils
from fairseq.logging import metrics, progress_bar

#: To these fairseq adds a handler for `common.log_file`.
_LOGGERS = ("fairseq.logging.progress_bar", "fairseq_cli.train")


@contextmanager
def leaving_nothing(loop: ModuleType) -> Iterator[None]:
    """Run a training in the block as if it were the first in the process, and the last.

    Args:
        loop: `fairseq_cli.train`.
    """
    _forget(loop)
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = {name: list(logging.getLogger(name).handlers) for name in _LOGGERS}
    wandb = progress_bar.wandb
    of_caller = None if wandb is None else wandb.run
    try:
        yield
    finally:
        _forget(loop)
        # Otherwise W&B gives the same run again to whoever asks for one.
        if wandb is not None and wandb.run is not of_caller:
            wandb.finish()
            if of_caller is None:
                # Otherwise it writes the next run into the folder of this one.
                wandb.teardown()
        root.setLevel(level)  # fairseq sets it by rank
        for name, before in handlers.items():
            _remove_other_handlers(logging.getLogger(name), before)


def _forget(loop: ModuleType) -> None:
    """Drop what fairseq keeps on functions and in modules."""
    for function in (checkpoint_utils.save_checkpoint, loop.should_stop_early):
        for name in ("best", "num_runs"):
            if hasattr(function, name):
                delattr(function, name)
    metrics.reset()
    for writer in progress_bar._tensorboard_writers.values():
        writer.close()
    progress_bar._tensorboard_writers.clear()
    if progress_bar.get_aim_run is not None:
        progress_bar.get_aim_run.cache_clear()


def _remove_other_handlers(logger: logging.Logger, kept: list[logging.Handler]) -> None:
    for handler in list(logger.handlers):
        if handler not in kept:
            logger.removeHandler(handler)
            handler.close()
