"""What tests of recipes share: a setting, and training in forks."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from loop import PRELOAD, Prepare
from nano import write_corpus, write_wav2vec2

from speechprune.errors import UserError
from speechprune.recipes import Setting
from speechprune.training.run import TrainingRun

SHORT = ("model.mask_length=2", "dataset.max_tokens=100000", "model.prune_every=1")


def write_setting(folder: Path) -> Setting:
    """A small setting for every recipe, its files in ``folder``."""
    return Setting(
        out=folder / "out",
        data=write_corpus(folder / "data"),
        model=write_wav2vec2(folder / "it's.pt"),
        config="demo/nano",
        sparsity=0.5,
        updates=4,
        overrides=SHORT,
        round_updates=2,
        step=0.2,
        source=write_corpus(folder / "source", seed=5),
        languages=(folder / "data", folder / "source"),
    )


def train_quickly(run: TrainingRun, environment: Mapping[str, str], lock: int) -> None:
    train_forked(None, run)


def train_forked(prepare: Prepare | None, run: TrainingRun) -> None:
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    arguments = ["--config-name", run.config, *run.all_overrides]
    process = context.Process(target=_train, args=(run.folder / "train.log", arguments, prepare))
    process.start()
    process.join()
    if process.exitcode:
        raise UserError(f"{run.name}: training failed; see {run.folder / 'train.log'}")


def _train(log: Path, arguments: list[str], prepare: Prepare | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    sys.argv = ["speechprune"]
    from speechprune.training.launch import train

    if prepare is not None:
        prepare()
    train(arguments)
