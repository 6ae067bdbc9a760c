"""What recipes of pretraining share: a run of HuBERT's task, and the file that comes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from speechprune.rewriting.conversion import convert
from speechprune.training.overrides import quoted, refuse_own
from speechprune.training.run import TrainingRun

#: Settings that a recipe makes itself, and what to do instead.
_OWN = {
    "task.data": "name another --folder",
    "task.label_dir": "name another --folder",
    "hydra.run.dir": "name another --folder",
    "checkpoint.finetune_from_model": "leave it out",
}


class PretrainingRun(TrainingRun):
    """A training run whose result does not depend on the number of cores: sums have a fixed order,
    that of one thread, unless ``OMP_NUM_THREADS`` asks for more."""

    def finish(self, environment: Mapping[str, str]) -> None:
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        super().finish({**environment, "OMP_NUM_THREADS": threads})


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError for overrides of what a recipe sets itself."""
    refuse_own(overrides, _OWN, "this recipe", _OWN)


def folder_override(key: str, folder: Path) -> str:
    """The override that names a folder, or a file."""
    return f"{key}={quoted(str(folder.absolute()))}"


def export(run: TrainingRun, out: Path) -> None:
    """Write the encoder of a run as a wav2vec 2.0 in half precision, fit for `model.w2v_path`.

    Raises:
        UserError: as `speechprune.rewriting.conversion.convert`.
    """
    convert(run.checkpoint, out, dtype=torch.float16)
