"""What recipes of pretraining share: a run of HuBERT's task, and the file that comes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from speechprune.rewriting.conversion import convert
from speechprune.training.overrides import quoted, refuse_own
from speechprune.training.run import TrainingRun

_PLACES = ("checkpoint.save_dir", "hydra.run.dir", "task.data", "task.label_dir")
_RELIED_ON = (
    "checkpoint.finetune_from_model",
    "checkpoint.no_last_checkpoints",
    "checkpoint.no_save",
    "checkpoint.restore_file",
    "criterion._name",
    "dataset.train_subset",
    "dataset.valid_subset",
    "model._name",
    "model.label_rate",
    "task._name",
    "task.label_rate",
    "task.labels",
)
#: Settings that a recipe makes itself or relies on, and what to do instead.
OWN = {
    **dict.fromkeys(_PLACES, "name another --folder"),
    **dict.fromkeys(_RELIED_ON, "leave it out"),
}
#: The same, for recipes whose updates are an option.
OWN_AND_UPDATES = {**OWN, "optimization.max_update": "use --updates"}


class PretrainingRun(TrainingRun):
    """A training run whose result does not depend on the number of cores: sums have a fixed order,
    that of one thread, unless ``OMP_NUM_THREADS`` asks for more."""

    def finish(self, environment: Mapping[str, str]) -> None:
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        super().finish({**environment, "OMP_NUM_THREADS": threads})


def check_overrides(overrides: Sequence[str], own: Mapping[str, str] = OWN) -> None:
    """Raise UserError for overrides of what a recipe sets itself, with what to do instead."""
    refuse_own(overrides, own, "this recipe", own)


def folder_override(key: str, folder: Path) -> str:
    """The override that names a folder, or a file."""
    return f"{key}={quoted(str(folder.absolute()))}"


def export(run: TrainingRun, out: Path) -> None:
    """Write the encoder of a run as a wav2vec 2.0 in half precision, fit for `model.w2v_path`.

    Raises:
        UserError: as `speechprune.rewriting.conversion.convert`.
    """
    convert(run.checkpoint, out, dtype=torch.float16)
