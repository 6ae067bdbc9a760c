"""The files and folders that settings name: where they lie, and whether they are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from speechprune.errors import UserError
from speechprune.models.restart import LAST, is_first_launch

_FILES = (
    "checkpoint.continue_once",
    "checkpoint.finetune_from_model",
    "checkpoint.restore_file",
    "common.quantization_config_path",
    "criterion.wer_kenlm_model",
    "criterion.wer_lexicon",
    "model.layer_plan",
    "model.mask_file",
    "model.w2v_path",
)
_FOLDERS = ("common.user_dir", "task.data", "task.label_dir", "task.target_dictionary")
#: What a run writes beside its own folder, whose parts are relative to that.
WRITTEN = ("common.aim_repo", "common.tensorboard_logdir")
#: Keys of files and folders. A run changes its folder, which would break relative paths.
PATHS = (*_FILES, *_FOLDERS, *WRITTEN)

#: Those that fairseq also looks for in the run's folder or its own.
_ALSO_ELSEWHERE = ("checkpoint.restore_file", "common.user_dir")
#: Those that only the beginning of a run reads.
_OF_A_BEGINNING = ("checkpoint.continue_once", "checkpoint.finetune_from_model", "model.mask_file")


def anchor_paths(cfg: DictConfig, folder: Path) -> None:
    """Make relative paths absolute in place: they belong to where the command was typed.

    Args:
        cfg: all groups of a fairseq config, complete, with its interpolations.
        folder: where it was typed.
    """
    for key in PATHS:
        value = _value(cfg, key)
        if not value or "://" in value:
            continue
        path = Path(value).expanduser()
        meant = folder / path
        if path.is_absolute() or key not in _ALSO_ELSEWHERE or meant.exists():
            OmegaConf.update(cfg, key, str(meant))


def number_curves(cfg: DictConfig, job: int) -> None:
    """Give a job of a sweep a TensorBoard folder of its own, in place.

    Args:
        cfg: as hydra composed it.
        job: its number, the name of the folder, unless the setting tells jobs apart by itself.
    """
    folder = cfg.common.get("tensorboard_logdir")
    if folder and not OmegaConf.is_interpolation(cfg.common, "tensorboard_logdir"):
        cfg.common.tensorboard_logdir = str(Path(folder, str(job)))


def check_paths(cfg: DictConfig) -> None:
    """Raise UserError, by key, for a file or folder that a run would read and that is not there.

    Without a checkpoint to go on from, fairseq would begin with random weights.
    """
    for key in (*_FILES, *_FOLDERS):
        value = _value(cfg, key)
        if value is None or not _is_read(cfg, key, value):
            continue
        path = Path(value)
        if key in _FILES and not path.is_file():
            what = "is a folder; name a file in it" if path.is_dir() else "does not exist"
            raise UserError(f"{key}: {path} {what}")
        if key in _FOLDERS and not path.is_dir():
            raise UserError(f"{key}: there is no folder {path}")


def _is_read(cfg: DictConfig, key: str, value: str) -> bool:
    """Whether a run reads the file or folder that a key names, and reads it as it stands."""
    if key == "checkpoint.restore_file":
        return value != LAST
    if key == "common.user_dir":
        return Path(value).is_absolute()  # fairseq looks for others in its own folder
    if key == "model.w2v_path":
        return not _value(cfg, "model.w2v_args")  # which tell what there would be to read
    return key not in _OF_A_BEGINNING or is_first_launch(cfg.checkpoint)


def _value(cfg: DictConfig, key: str) -> Any:
    """The value of a key; None where a config has no such key."""
    group, _, name = key.partition(".")
    section = cfg.get(group)
    return section[name] if section is not None and name in section else None
