"""Files of finetuned models: what they say, in today's form."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import DictConfig, open_dict

from speechprune.checkpoint.file import PathLike, read
from speechprune.checkpoint.outputs import saved_dictionary
from speechprune.checkpoint.pretrained import pretrained_settings
from speechprune.checkpoint.slots import AUDIO_LABELS
from speechprune.checkpoint.text import read_sentence_model
from speechprune.checkpoint.upgrading import upgraded
from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.state_names import is_finetuned, is_text

logger = logging.getLogger(__name__)


def read_finetuned(path: PathLike) -> dict[str, Any]:
    """The state of a finetuned checkpoint, its configuration in today's form.

    Raises:
        UserError: the file cannot be read, or is no finetuned model with its pretrained one's
            settings.
    """
    path = Path(path)
    state = read(path, mmap=True)
    if not is_finetuned(state["model"]):
        raise UserError(f"{path} is not a finetuned model; finetune a pretrained one first")
    if is_text(state["model"]):
        return read_sentence_model(path)
    pretrained = getattr(state.get("args"), "w2v_args", None)
    if pretrained is None:
        state = upgraded(state, path)
    else:
        # fairseq cannot convert a namespace within a namespace: convert the inner one by itself.
        state = upgraded(state, path, {"w2v_args": None})
        with open_dict(state["cfg"]):
            state["cfg"].model.w2v_args = convert_namespace_to_omegaconf(pretrained)
    _modernise(state["cfg"], path)
    return state


def _modernise(cfg: DictConfig, path: Path) -> None:
    """Bring an old configuration up to date."""
    if not cfg.get("model") or cfg.model.get("w2v_args") is None:
        raise UserError(f"{path} does not hold the settings of its pretrained model (w2v_args)")
    with open_dict(cfg):
        if cfg.get("task") is None:
            cfg.task = {}
        if cfg.task.get("_name") == AUDIO_LABELS:
            return
        # The task of 2020 served pretraining and finetuning.
        cfg.task._name = "audio_finetuning"
        cfg.task.labels = cfg.task.get("labels") or "ltr"


def find_dictionary(
    state: Mapping[str, Any], cfg: DictConfig, path: Path, data: PathLike | None
) -> Dictionary:
    """The outputs' dictionary: from the checkpoint, or else from a data folder.

    Args:
        state, cfg: as `read_finetuned` gives them.
        path: of the checkpoint.
        data: a folder to look in first, if the checkpoint lacks its dictionary.

    Raises:
        UserError: it is nowhere.
    """
    dictionary = saved_dictionary(state)
    if dictionary is not None:
        return dictionary
    for folder in (data, cfg.task.get("target_dictionary"), cfg.task.get("data")):
        file = Path(folder or "") / f"dict.{cfg.task.labels}.txt"
        if folder and file.is_file():
            logger.warning(
                f"{path} holds no dictionary: its outputs are taken for the symbols of {file}, in "
                "their order"
            )
            return Dictionary.load(str(file))
    raise UserError(
        f"{path} holds no dictionary; give the data folder with its dict.{cfg.task.labels}.txt"
    )


def listening(path: PathLike) -> tuple[bool, int]:
    """How a checkpoint wants to hear audio: normalised to mean 0 and variance 1, and at what rate.

    Raises:
        UserError: the file cannot be read, or holds no speech encoder.
    """
    if is_finetuned(read(path, mmap=True)["model"]):
        task: Mapping[str, Any] = read_finetuned(path)["cfg"].task
        normalize = task.get("normalize")
    else:
        task, model = pretrained_settings(path)
        normalize = task.get("normalize", model.get("normalize"))
    return bool(normalize), int(task.get("sample_rate") or SAMPLE_RATE)
