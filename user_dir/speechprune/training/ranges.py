"""The values that settings may have: fairseq checks few of them, and some only hours later."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from speechprune.checkpoint.evaluated import literal
from speechprune.errors import UserError


@dataclass(frozen=True)
class Range:
    """Numbers from ``least`` to ``most``.

    Attributes:
        above: ``least`` itself is not one of them.
        below: ``most`` itself is not one of them.
    """

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        fits_least = value > self.least if self.above else value >= self.least
        fits_most = value < self.most if self.below else value <= self.most
        return fits_least and fits_most and math.isfinite(value)

    def __str__(self) -> str:
        least = f"above {self.least:g}" if self.above else f"{self.least:g}"
        if self.least == self.most:
            return least
        if self.most == math.inf:
            return f"a number {least}" if self.above else f"at least {least}"
        most = int(self.most) if self.most == int(self.most) else self.most
        return f"{least} to {'below ' if self.below else ''}{most}"


AMOUNT = Range(0)
COUNT = Range(1)
POSITIVE = Range(0, above=True)
SHARE = Range(0, 1)
PART = Range(0, 1, below=True)
#: An amount, or -1 for none or all.
SWITCHED = Range(-1)
SEED = Range(0, 2**32 - 1)

#: Each value of a list has to lie in the range; a value that is not set may be anything.
RANGES: dict[str, Range] = {
    "checkpoint.checkpoint_shard_count": COUNT,
    "checkpoint.keep_best_checkpoints": SWITCHED,
    "checkpoint.keep_interval_updates": SWITCHED,
    "checkpoint.keep_interval_updates_pattern": SWITCHED,
    "checkpoint.keep_last_epochs": SWITCHED,
    "checkpoint.patience": SWITCHED,
    "checkpoint.save_interval": COUNT,
    "checkpoint.save_interval_updates": AMOUNT,
    "common.all_gather_list_size": COUNT,
    "common.amp_batch_retries": AMOUNT,
    "common.amp_init_scale": COUNT,
    "common.amp_scale_window": COUNT,
    "common.empty_cache_freq": AMOUNT,
    "common.fp16_init_scale": COUNT,
    "common.fp16_scale_tolerance": SHARE,
    "common.fp16_scale_window": COUNT,
    "common.log_interval": COUNT,
    "common.min_loss_scale": POSITIVE,
    "common.model_parallel_size": Range(1, 1),
    "common.seed": SEED,
    "common.threshold_loss_scale": POSITIVE,
    "criterion.cosine_weight": AMOUNT,
    "criterion.distill_weight": SHARE,
    "criterion.l1_weight": AMOUNT,
    "criterion.penalty_weight": AMOUNT,
    "criterion.states": AMOUNT,
    "criterion.student_states": AMOUNT,
    "dataset.batch_size": COUNT,
    "dataset.batch_size_valid": COUNT,
    "dataset.curriculum": AMOUNT,
    "dataset.data_buffer_size": AMOUNT,
    "dataset.fixed_validation_seed": SEED,
    "dataset.max_tokens": COUNT,
    "dataset.max_tokens_valid": COUNT,
    "dataset.max_valid_steps": COUNT,
    "dataset.num_shards": COUNT,
    "dataset.num_workers": AMOUNT,
    "dataset.required_batch_size_multiple": COUNT,
    "dataset.required_seq_len_multiple": COUNT,
    "dataset.shard_id": AMOUNT,
    "dataset.validate_after_updates": AMOUNT,
    "dataset.validate_interval": COUNT,
    "dataset.validate_interval_updates": AMOUNT,
    "distributed_training.bucket_cap_mb": COUNT,
    "distributed_training.distributed_port": Range(-1, 65535),
    "distributed_training.distributed_world_size": COUNT,
    "distributed_training.heartbeat_timeout": SWITCHED,
    "lr_scheduler.final_lr_scale": POSITIVE,
    "lr_scheduler.hold_steps": AMOUNT,
    "lr_scheduler.init_lr_scale": AMOUNT,
    "lr_scheduler.warmup_steps": AMOUNT,
    "lr_scheduler.warmup_updates": AMOUNT,
    "model.activation_dropout": PART,
    "model.attention_dropout": PART,
    "model.drop_path": PART,
    "model.dropout": PART,
    "model.dropout_input": PART,
    "model.feature_grad_mult": AMOUNT,
    "model.ffn_sparsity": PART,
    "model.final_dropout": PART,
    "model.freeze_finetune_updates": AMOUNT,
    "model.head_sparsity": PART,
    "model.keep_macs": Range(0, 1, above=True),
    "model.keep_parameters": Range(0, 1, above=True),
    "model.layer_decay": Range(0, 1, above=True),
    "model.layerdrop": PART,
    "model.mask_channel_length": COUNT,
    "model.mask_channel_min_space": AMOUNT,
    "model.mask_channel_other": AMOUNT,
    "model.mask_channel_prob": SHARE,
    "model.mask_dropout": PART,
    "model.mask_length": COUNT,
    "model.mask_min_space": AMOUNT,
    "model.mask_other": AMOUNT,
    "model.mask_prob": SHARE,
    "model.prune_begin": AMOUNT,
    "model.prune_end": COUNT,
    "model.slim_cap": SHARE,
    "model.slim_floor": PART,
    "model.whole_layers": AMOUNT,
    "optimization.clip_norm": AMOUNT,
    "optimization.lr": AMOUNT,
    "optimization.max_epoch": AMOUNT,
    "optimization.max_update": COUNT,
    "optimization.stop_min_lr": SWITCHED,
    "optimization.stop_time_hours": AMOUNT,
    "optimization.update_freq": COUNT,
    "optimizer.adam_betas": PART,
    "optimizer.adam_eps": AMOUNT,
    "optimizer.momentum": PART,
    "optimizer.weight_decay": AMOUNT,
    "task.crop_seconds": POSITIVE,
    "task.max_sample_size": COUNT,
    "task.min_sample_size": AMOUNT,
    "task.num_batch_buckets": AMOUNT,
    "task.sample_rate": COUNT,
    "task.subsample": Range(0, 1, above=True),
}
#: Lists that must not be empty, and what they may look like.
_LISTS = {
    "optimization.lr": "[0.0001]",
    "optimization.update_freq": "[1]",
    "optimizer.adam_betas": "'(0.9,0.98)'",
}


def check_ranges(cfg: DictConfig) -> None:
    """Refuse numbers that cannot be right, by key.

    Args:
        cfg: all groups of a fairseq config.

    Raises:
        UserError: a number outside its range, one that is not finite, or a list without values.
    """
    for key, value in _settings(cfg):
        if key in _LISTS and not (isinstance(value, list) and value):
            raise UserError(f"{key}={value} needs values, such as {_LISTS[key]}")
        for each in _numbers(key, value):
            if key in RANGES and each not in RANGES[key]:
                raise UserError(f"{key}={each} is out of range; use {RANGES[key]}")
            if isinstance(each, float) and not math.isfinite(each):
                raise UserError(f"{key}={each} is not a finite number")


def _settings(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """Keys such as "model.dropout" with plain values that are set."""
    for group, section in cfg.items():
        if isinstance(section, DictConfig):
            plain: Any = OmegaConf.to_container(section, resolve=True)
            for name, value in plain.items():
                key = f"{group!s}.{name}"
                if value is not None:
                    yield key, _betas(value) if key == "optimizer.adam_betas" else value


def _betas(value: Any) -> list[Any]:
    """The two numbers of `adam_betas`; of its text, which fairseq evaluates, nothing else is taken.

    Raises UserError if it is anything else.
    """
    try:
        betas = literal(value) if isinstance(value, str) else value
        first, second = betas
        return [first, second]
    except (ValueError, TypeError) as error:
        example = _LISTS["optimizer.adam_betas"]
        raise UserError(
            f"optimizer.adam_betas={value} must be two numbers, such as {example}"
        ) from error


def _numbers(key: str, value: Any) -> Sequence[Any]:
    """The values of a setting that have to be numbers, and others that are."""
    values = value if isinstance(value, list) else [value]
    return values if key in RANGES else [each for each in values if isinstance(each, float)]
