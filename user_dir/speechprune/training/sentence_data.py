"""Sentences that would stop a run, or spoil it, found before anything is built."""

from __future__ import annotations

import torch
from omegaconf import DictConfig

from speechprune.criterions.names import REPORTED
from speechprune.errors import UserError
from speechprune.models.sentence_task import refuse_other_outputs, refuse_unlabelled
from speechprune.training.paths import value_at


def check_sentences(cfg: DictConfig) -> None:
    """Check what a run of `sentence_prediction` will read.

    Args:
        cfg: all groups of a fairseq config.

    Raises:
        UserError: the folder is not for this task, has other classes than the settings say, or
            values in their place; a split or its labels are missing; the metric that chooses the
            best checkpoint is not reported, or cannot be in several processes.
    """
    refuse_other_outputs(cfg.task, bool(value_at(cfg, "criterion.regression_target")))
    refuse_unlabelled(cfg)
    _check_metric(cfg)
    _check_processes(cfg)


def _check_metric(cfg: DictConfig) -> None:
    """The criterion of fairseq measures most metrics only on request, and fails in the first
    validation otherwise."""
    metric = cfg.checkpoint.best_checkpoint_metric
    for flag, metrics in REPORTED.items():
        if metric in metrics and not value_at(cfg, f"criterion.{flag}"):
            raise UserError(
                f"checkpoint.best_checkpoint_metric={metric} needs criterion.{flag}=true"
            )


def _check_processes(cfg: DictConfig) -> None:
    """fairseq gathers the predictions that these metrics are of by GPUs alone."""
    has_gpus = torch.cuda.is_available() and not cfg.common.cpu
    if cfg.distributed_training.distributed_world_size == 1 or has_gpus:
        return
    for flag in REPORTED:
        if value_at(cfg, f"criterion.{flag}"):
            raise UserError(
                f"criterion.{flag}=true needs one process on a CPU; set it to false, or "
                "distributed_training.distributed_world_size=1"
            )
