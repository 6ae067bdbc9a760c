"""Checkpoints of any year in today's form, as fairseq brings them there."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from collections.abc import Mapping
from typing import Any

from fairseq.checkpoint_utils import _upgrade_state_dict
from fairseq.dataclass.utils import overwrite_args_by_name
from omegaconf import OmegaConf

from speechprune.checkpoint.evaluated import refuse_code
from speechprune.checkpoint.file import PathLike, read
from speechprune.checkpoint.slots import AUDIO_LABELS
from speechprune.errors import UserError

#: What fairseq wants to know of the training behind every checkpoint. Files that were stripped for
#: publishing lack it.
_NO_TRAINING: Mapping[str, Any] = {
    "optimizer_name": None,
    "lr_scheduler_state": {},
    "num_updates": 0,
}
_OF_DECODING = ("generation", "eval_wer_config")
#: All tasks that an encoder may come from; a file may not choose another.
_TASKS = (
    *("audio_pretraining", "audio_finetuning", "hubert_pretraining", AUDIO_LABELS),
    *("masked_lm", "sentence_prediction"),
)
_START = {"epoch": 1, "iterations_in_epoch": 0}


def read_upgraded(path: PathLike, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What fairseq's `load_checkpoint_to_cpu` gives, of a file that `read` accepts.

    Args:
        overrides: settings that take the place of those of their names, in all sections.

    Returns:
        As `read`, with ``cfg`` as a DictConfig, and with what is known of its training.

    Raises:
        UserError: as `read`, or the settings of 2020 cannot be converted.
    """
    return upgraded(read(path, mmap=True), path, overrides)


def upgraded(
    state: Mapping[str, Any], path: PathLike, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """As `read_upgraded`, of what `read` gave."""
    new = {**state, **_training_behind(state)}
    if new["args"] is not None:
        vars(new["args"]).update(overrides or {})
    try:
        if new["cfg"] is not None:
            new["cfg"] = OmegaConf.create(_known_to_fairseq(new["cfg"]))
            overwrite_args_by_name(new["cfg"], dict(overrides or {}))
        new = _upgrade_state_dict(new)
    # Settings of 2020 go through hydra, which may stumble over any of them.
    except Exception as error:
        raise UserError(
            f"{path}: its settings cannot be brought into today's form ({_first_line(error)})"
        ) from error
    if new["args"] is not None:
        refuse_code(OmegaConf.to_container(new["cfg"], resolve=False), path)
    return new


def _training_behind(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint tells of its training, with defaults for what it does not tell."""
    history = [dict(entry) for entry in state.get("optimizer_history") or [{}]]
    history[-1] = {**_NO_TRAINING, **history[-1]}
    extra = dict(state.get("extra_state") or {})
    if not extra.get("train_iterator") and "epoch" not in extra:
        extra["train_iterator"] = dict(_START)
    return {"optimizer_history": history, "extra_state": extra}


def _known_to_fairseq(settings: Any) -> Any:
    """Settings less those of decoding, into which fairseq looks when they are not there, and with
    tasks that every fairseq has: of pretraining's it takes ``normalize`` alone."""
    if not isinstance(settings, dict):
        return settings
    known = {k: _known_to_fairseq(v) for k, v in settings.items() if k not in _OF_DECODING}
    task = known.get("task")
    if isinstance(task, dict) and task.get("_name") not in _TASKS:
        task["_name"] = _TASKS[0]
    return known


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
