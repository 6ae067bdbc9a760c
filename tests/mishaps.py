"""What can be done to a training run from within: call it in the run's process before it trains."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from functools import wraps
from pathlib import Path
from typing import Any, Callable

import torch


def call_after_each_update(action: Callable[[Any], None]) -> None:
    """Have ``action(trainer)`` called when an update is done, before anything is saved."""
    from fairseq.trainer import Trainer

    train_step = Trainer.train_step

    @wraps(train_step)
    def train_step_and_act(trainer: Any, *args: Any, **options: Any) -> Any:
        result = train_step(trainer, *args, **options)
        action(trainer)
        return result

    Trainer.train_step = train_step_and_act


def kill_after_update(update: int) -> None:
    """Prepare a run to be killed when ``update`` updates are done, before they are saved."""

    def kill(trainer: Any) -> None:
        if trainer.get_num_updates() == update:
            os.kill(os.getpid(), signal.SIGKILL)

    call_after_each_update(kill)


def spoil_checkpoint(count: int, step: str, kill: bool) -> None:
    """Prepare a run to end when its ``count``-th checkpoint is half done.

    Args:
        step: "write", or "copy" to checkpoint_last.pt, from which a run resumes.
        kill: end by a signal; otherwise by a full disk, which stays full.
    """
    done = []

    def spoil(path: Any) -> None:
        done.append(path)
        if len(done) < count:
            return
        os.truncate(path, os.path.getsize(path) // 2)
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write, copy = torch.save, shutil.copyfile

    def spoilt_write(state: Any, file: Any) -> None:
        write(state, file)
        file.flush()
        spoil(file.name)

    def spoilt_copy(source: str, target: str) -> str:
        copy(source, target)
        if "checkpoint_last" in target:
            spoil(target)
        return target

    if step == "write":
        torch.save = spoilt_write
        time.sleep = lambda seconds: None  # fairseq tries again after a while
    else:
        shutil.copyfile = spoilt_copy


def save_own_model(path: Path, update: int) -> None:
    """Prepare a run to save this process's model and a hash, for fairseq saves rank 0's only."""

    def save(trainer: Any) -> None:
        if trainer.get_num_updates() == update:
            torch.save({"model": trainer.get_model().state_dict(), "hash": hash("mask")}, path)

    call_after_each_update(save)
