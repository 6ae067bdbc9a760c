"""What tests of recipes share: a setting, and training in forks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from forking import start
from loop import Prepare
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


@contextmanager
def runs_in_forks() -> Iterator[list[str]]:
    """Training runs in forks; gives the names of those that were begun."""
    begun: list[str] = []

    def train(run: TrainingRun, environment: Mapping[str, str], lock: int) -> None:
        begun.append(run.name)
        train_forked(None, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "_train", train)
        yield begun


def train_forked(prepare: Prepare | None, run: TrainingRun) -> None:
    log = run.folder / "train.log"
    process = start(log, _train, ["--config-name", run.config, *run.all_overrides], prepare)
    process.join()
    if process.exitcode:
        raise UserError(f"{run.name}: training failed; see {log}")


def _train(arguments: list[str], prepare: Prepare | None) -> None:
    sys.argv = ["speechprune"]
    from speechprune.training.launch import train

    if prepare is not None:
        prepare()
    train(arguments)
