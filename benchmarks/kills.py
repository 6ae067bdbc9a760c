"""Training runs that are killed at random, and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import sleep
from typing import Any

import torch
from torch import Tensor

import speechprune
from benchmarks.harness import Report
from speechprune.checkpoint import read
from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic

#: What `benchmarks.faults` calls this.
KILLS = "kills"
#: Updates of a run that is killed.
UPDATES = 40


@dataclass(frozen=True)
class NanoRun:
    """How masks of the packaged model are learned from a few sentences, in seconds."""

    folder: Path
    data: Path
    pretrained: Path

    def command(self, name: str, updates: int) -> list[str]:
        """A training that saves after each update."""
        overrides = {
            "hydra.run.dir": self.folder / name,
            "task.data": self.data,
            "model.w2v_path": self.pretrained,
            "model._name": "wav2vec_ctc_st",
            "common.cpu": "true",
            "dataset.train_subset": "train",
            "dataset.valid_subset": "valid",
            "dataset.batch_size": 2,
            "optimization.max_update": updates,
            "lr_scheduler.warmup_steps": 0,
            "checkpoint.save_interval_updates": 1,
            "checkpoint.keep_interval_updates": -1,
        }
        given = [f"{key}={value}" for key, value in overrides.items()]
        program = [sys.executable, "-m", "speechprune.tools.main", "train"]
        return [*program, "--config-name", "demo/nano", *given]

    def finetune(self, name: str, updates: int) -> Path:
        """Train to the end; returns the last checkpoint."""
        ran = subprocess.run(self.command(name, updates), capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f"training failed: {ran.stderr[-2000:]}")
        return self.folder / name / "checkpoints" / "checkpoint_last.pt"

    def kill(self, name: str, updates: int, saved: int, seconds: float) -> None:
        """Train until so many checkpoints are there, and so much longer."""
        checkpoints = self.folder / name / "checkpoints"
        process = subprocess.Popen(
            self.command(name, updates),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and len(list(checkpoints.glob("checkpoint_*_*.pt"))) < saved:
            sleep(0.01)
        sleep(seconds)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def nano_run(folder: Path) -> NanoRun:
    """Prepare what a run needs."""
    folder.mkdir(parents=True)
    sizes = {"train": 12, "valid": 4}
    make_synthetic(folder / "data", SyntheticSpeech(sizes=sizes))
    pretrained = Path(speechprune.__file__).parent / "assets" / "nano_wav2vec2.pt"
    return NanoRun(folder, folder / "data", pretrained)


def kill_and_resume(report: Report, folder: Path, number: int, seed: int) -> int:
    """Tell a row for each kill; returns how many runs ended otherwise than one left alone."""
    run = nano_run(folder)
    alone = read(run.finetune("alone", UPDATES))
    random, differing = Random(seed), 0
    table = report.table(("killed at update", "resumed and ended"))
    for index in range(number):
        name = f"killed-{index}"
        run.kill(name, UPDATES, random.randrange(UPDATES), random.uniform(0.0, 0.1))
        at = _updates(run.folder / name / "checkpoints" / "checkpoint_last.pt")
        ended = read(run.finetune(name, UPDATES))
        equal = _equal(alone["model"], ended["model"]) and _equal(
            alone["last_optimizer_state"], ended["last_optimizer_state"]
        )
        differing += not equal
        table.add(at, "bit-equal" if equal else "OTHERWISE")
    return differing


def _updates(checkpoint: Path) -> str:
    if not checkpoint.exists():
        return "none"
    return str(read(checkpoint)["optimizer_history"][-1]["num_updates"])


def _equal(value: Any, other: Any) -> bool:
    """Whether two nested values are equal, tensors to the bit."""
    if isinstance(value, Tensor):
        return isinstance(other, Tensor) and torch.equal(value, other)
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_equal(value[k], other[k]) for k in value)
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(map(_equal, value, other))
    return bool(value == other)
