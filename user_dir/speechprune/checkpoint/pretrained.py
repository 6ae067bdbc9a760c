"""Files of pretrained models: what they say, and making one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from speechprune.backbones import backbone_called
from speechprune.checkpoint.file import PathLike, read
from speechprune.checkpoint.settings import mapping
from speechprune.errors import UserError
from speechprune.state_names import MASK_EMBEDDING, is_finetuned


def check_pretrained(path: PathLike, normalize: bool) -> None:
    """Refuse what is not a pretrained model, fit for `model.w2v_path`.

    Args:
        normalize: the task's setting, which must be that of pretraining.

    Raises:
        UserError: the file cannot be read, is a finetuned model, holds no speech encoder of a
            known family, or was pretrained with another ``normalize``.
    """
    task, model = pretrained_settings(path)
    name = model.get("_name", model.get("arch"))
    if name is None:
        raise UserError(f"{path} does not say which model it holds (its `cfg.model._name`)")
    try:
        backbone_called(str(name))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    pretrained = bool(task.get("normalize", model.get("normalize", False)))
    if pretrained != normalize:
        raise UserError(
            f"{path} was pretrained with normalize={_yaml(pretrained)}, not {_yaml(normalize)}; "
            f"set task.normalize={_yaml(pretrained)}"
        )


def model_name(path: PathLike) -> str:
    """A pretrained model's name in fairseq's registry; raises UserError if the file holds none."""
    model_settings = pretrained_settings(path)[1]
    return str(model_settings.get("_name", model_settings.get("arch")))


def width(path: PathLike) -> int:
    """The channels of a pretrained encoder's layers; UserError if the file holds none."""
    return int(_pretrained(path)["model"][MASK_EMBEDDING].numel())


def pretrained_state(
    weights: Mapping[str, Tensor], task: Mapping[str, Any], model: Mapping[str, Any], updates: int
) -> dict[str, Any]:
    """The state of a checkpoint that is fit for `model.w2v_path`, without paths.

    Args:
        weights: of the encoder, without pretraining heads.
        task: settings of pretraining's task, ``normalize`` among them.
        model: settings of the encoder, with ``_name``.
        updates: how many there have been.
    """
    settings = {
        # The criterion and the scheduler are cleared by fairseq's loaders, which need the keys.
        **{"criterion": None, "lr_scheduler": None},
        "task": {**task, "data": "."},
        "model": dict(model),
    }
    history = {"num_updates": updates, "optimizer_name": None, "lr_scheduler_state": None}
    return {
        "args": None,
        "cfg": settings,
        "model": dict(weights),
        "optimizer_history": [history],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }


def pretrained_settings(path: PathLike) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The settings of task and model of a pretrained model; UserError if it is none."""
    return _settings(_pretrained(path))


def _pretrained(path: PathLike) -> Mapping[str, Any]:
    """The state of a pretrained model; UserError if it is none."""
    state = read(path, mmap=True)
    if is_finetuned(state["model"]):
        raise UserError(
            f"{path} is a finetuned model, but model.w2v_path must be the pretrained one; to start "
            f"from it, set checkpoint.finetune_from_model={path}"
        )
    if MASK_EMBEDDING not in state["model"]:
        raise UserError(f"{path} holds no pretrained speech encoder; check model.w2v_path")
    return state


def _settings(state: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The settings of task and model; in checkpoints of 2020 they are one flat namespace."""
    if state.get("cfg"):
        return mapping(state["cfg"].get("task")), mapping(state["cfg"].get("model"))
    return mapping(state["args"]), mapping(state["args"])


def _yaml(value: bool) -> str:
    return str(value).lower()
