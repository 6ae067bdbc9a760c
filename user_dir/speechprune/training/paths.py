"""The files and folders that settings name: where they lie, and whether they are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from speechprune.errors import UserError
from speechprune.files import check_folder
from speechprune.models.restart import LAST, is_first_launch

#: Keys of files that a run reads.
FILES = (
    "checkpoint.continue_once",
    "checkpoint.finetune_from_model",
    "checkpoint.restore_file",
    "common.quantization_config_path",
    "criterion.teacher",
    "criterion.wer_kenlm_model",
    "criterion.wer_lexicon",
    "model.layer_plan",
    "model.mask_file",
    "model.roberta_path",
    "model.w2v_path",
)
_FOLDERS = ("common.user_dir", "task.data", "task.label_dir", "task.target_dictionary")
#: What a run writes beside its own folder, whose parts are relative to that.
WRITTEN = ("common.aim_repo", "common.tensorboard_logdir")
#: Keys of files and folders. A run changes its folder, which would break relative paths.
PATHS = (*FILES, *_FOLDERS, *WRITTEN)

#: Those that only the beginning of a run reads.
_OF_A_BEGINNING = ("checkpoint.continue_once", "checkpoint.finetune_from_model", "model.mask_file")


def anchor_paths(cfg: DictConfig, folder: Path) -> None:
    """Make relative paths absolute in place: they belong to where the command was typed.

    Args:
        cfg: all groups of a fairseq config, complete, with its interpolations.
        folder: where it was typed.
    """
    for key in PATHS:
        value = value_at(cfg, key)
        is_default = key == "checkpoint.restore_file" and value == LAST
        if not value or "://" in value or is_default:
            continue
        path = folder / Path(value).expanduser()
        if path.exists() or not _lies_elsewhere(key, value):
            OmegaConf.update(cfg, key, str(path))


def _lies_elsewhere(key: str, value: str) -> bool:
    """Whether fairseq finds a path in the run's folder or its own."""
    if key == "checkpoint.restore_file":
        return Path(value).exists()
    return key == "common.user_dir"


def number_curves(cfg: DictConfig, job: int) -> None:
    """Give a job of a sweep a TensorBoard folder of its own, in place.

    Args:
        cfg: as hydra composed it.
        job: its number, the name of the folder, unless the setting tells jobs apart by itself.
    """
    common = cfg.common
    if not OmegaConf.is_interpolation(common, "tensorboard_logdir") and common.tensorboard_logdir:
        common.tensorboard_logdir = str(Path(common.tensorboard_logdir, str(job)))


def check_paths(cfg: DictConfig) -> None:
    """Refuse paths that a run could not use. It begins with random weights where fairseq does not
    find what to go on from.

    Raises:
        UserError: by key, for one that is empty, a file or folder that is to be read and is not
            there, or a folder that could not be written to.
    """
    for key in (*PATHS, "checkpoint.save_dir", "common.log_file"):
        if value_at(cfg, key) == "":
            raise UserError(f"{key} is empty; name a path, or leave it out")
    for key in (*FILES, *_FOLDERS):
        value = value_at(cfg, key)
        if value is not None and _is_read(cfg, key, value):
            _check_read(key, Path(value))
    for key in ("checkpoint.save_dir", "common.tensorboard_logdir"):
        if value_at(cfg, key) is not None:
            check_folder(value_at(cfg, key))
    log = value_at(cfg, "common.log_file")
    if log is not None and not Path(log).absolute().parent.is_dir():
        raise UserError(f"common.log_file={log}: there is no folder {Path(log).absolute().parent}")


def _check_read(key: str, path: Path) -> None:
    if key in FILES and not path.is_file():
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
        return not value_at(cfg, "model.w2v_args")  # which tell what there would be to read
    return key not in _OF_A_BEGINNING or is_first_launch(cfg.checkpoint)


def value_at(cfg: DictConfig, key: str) -> Any:
    """The value of a key; None where a config has no such key."""
    group, _, name = key.partition(".")
    section = cfg.get(group)
    return section[name] if section is not None and name in section else None
