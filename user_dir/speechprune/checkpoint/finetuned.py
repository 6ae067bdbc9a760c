"""Finetuned CTC models, built from their checkpoints alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils, tasks
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import MODEL_REGISTRY
from fairseq.tasks import FairseqTask
from omegaconf import DictConfig, open_dict
from torch import nn

from speechprune.checkpoint.file import PathLike, read
from speechprune.errors import UserError

#: Where a checkpoint of ours keeps what fairseq has no place for.
PROVENANCE = "speechprune"


@dataclass(frozen=True)
class LoadedModel:
    """A finetuned CTC model, ready for inference.

    Attributes:
        path: the checkpoint.
        model: in evaluation mode, on the CPU.
        task: fairseq's audio_finetuning task.
        dictionary: of the outputs.
        cfg: the checkpoint's configuration, as built.
        provenance: what :func:`speechprune.checkpoint.fold` noted; empty for other checkpoints.
    """

    path: Path
    model: nn.Module
    task: FairseqTask
    dictionary: Dictionary
    cfg: DictConfig
    provenance: Mapping[str, Any]

    @property
    def density(self) -> float:
        """Share of the maskable weights that is kept; 1.0 for a model without masks."""
        controller = getattr(self.model, "mask_controller", None)
        if controller is None:
            return float(self.provenance.get("density", 1.0))
        return float(controller.stats()["density"])


def load_finetuned(path: PathLike, data: PathLike | None = None) -> LoadedModel:
    """Build any finetuned CTC checkpoint: a plain `wav2vec_ctc`, one of ours, or a folded one.

    Neither the pretrained file nor the data folder of training has to exist.

    Args:
        data: a folder to take `dict.LABELS.txt` from, if the checkpoint lacks its dictionary.

    Raises:
        UserError: the file cannot be read, is no finetuned CTC model, or its dictionary is nowhere.
    """
    path = Path(path)
    state = read_finetuned(path)
    cfg = state["cfg"]
    dictionary = _find_dictionary(state, cfg, path, data)
    task = tasks.setup_task(cfg.task, from_checkpoint=True)
    task.load_state_dict({"target_dictionary": dictionary})
    try:
        model = task.build_model(cfg.model, from_checkpoint=True)
        model.load_state_dict(state["model"], strict=True, model_cfg=cfg.model)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: weights and configuration disagree: {reason}") from error
    # PyTorch multiplies in another order, with other rounding, by weights that require gradient:
    # without, masked and folded models agree to the last bit.
    model.eval().requires_grad_(False)
    return LoadedModel(path, model, task, dictionary, cfg, state.get(PROVENANCE) or {})


def is_finetuned(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint holds a CTC head on an encoder."""
    return any(key.startswith("w2v_encoder.") for key in state["model"])


def read_finetuned(path: PathLike) -> dict[str, Any]:
    """The state of a finetuned checkpoint, its configuration in today's form.

    Raises:
        UserError: the file cannot be read, or is no CTC model with its pretrained one's settings.
    """
    path = Path(path)
    state = read(path, mmap=True)
    if not is_finetuned(state):
        raise UserError(f"{path} is no finetuned CTC model; finetune a pretrained one first")
    pretrained = getattr(state.get("args"), "w2v_args", None)
    if pretrained is None:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    else:
        # fairseq cannot convert a namespace within a namespace: convert the inner one by itself.
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path), {"w2v_args": None})
        with open_dict(state["cfg"]):
            state["cfg"].model.w2v_args = convert_namespace_to_omegaconf(pretrained)
    _modernise(state["cfg"], path)
    return state


def _modernise(cfg: DictConfig, path: Path) -> None:
    """Bring an old configuration up to date and refuse what is no CTC model that is known here."""
    name = cfg.model.get("_name") if cfg.get("model") else None
    if name not in MODEL_REGISTRY or "ctc" not in name:
        raise UserError(f"{path} holds a model {name!r}, no CTC model that is known here")
    with open_dict(cfg):
        # The task of 2020 served pretraining and finetuning.
        cfg.task._name = "audio_finetuning"
        cfg.task.labels = cfg.task.get("labels") or "ltr"
    if cfg.model.get("w2v_args") is None:
        raise UserError(f"{path} does not hold the settings of its pretrained model (w2v_args)")


def _find_dictionary(
    state: Mapping[str, Any], cfg: DictConfig, path: Path, data: PathLike | None
) -> Dictionary:
    """The outputs' dictionary: from the checkpoint, or else from a data folder."""
    dictionary = (state.get("task_state") or {}).get("target_dictionary")
    if dictionary is not None:
        return dictionary
    counted = (state.get(PROVENANCE) or {}).get("target_dictionary")
    if counted is not None:
        dictionary = Dictionary()
        for symbol, count in counted:
            dictionary.add_symbol(symbol, n=count)
        return dictionary
    for folder in (data, cfg.task.get("target_dictionary"), cfg.task.get("data")):
        file = Path(folder or "") / f"dict.{cfg.task.labels}.txt"
        if folder and file.is_file():
            return Dictionary.load(str(file))
    raise UserError(
        f"{path} holds no dictionary; give the data folder with its dict.{cfg.task.labels}.txt"
    )
