"""The settings in a checkpoint, in each of the forms that fairseq has given them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf


def mapping(settings: Any) -> Any:
    """Settings as something with keys; those of 2020 are a namespace, and some are missing."""
    return vars(settings) if isinstance(settings, Namespace) else settings or {}


def plain(settings: Any) -> Any:
    """A copy of nested settings in which omegaconf's are dicts."""
    if isinstance(settings, DictConfig):
        settings = OmegaConf.to_container(settings, resolve=False, enum_to_str=True)
    if isinstance(settings, Namespace):
        return Namespace(**plain(vars(settings)))
    if isinstance(settings, dict):
        return {key: plain(value) for key, value in settings.items()}
    return settings


def models_in(state: Mapping[str, Any]) -> Iterator[Any]:
    """The settings of the model: those under ``cfg``, or in 2020 the flat ``args``, or both."""
    for settings in ((state.get("cfg") or {}).get("model"), state.get("args")):
        if settings is not None:
            yield mapping(settings)


def encoder_of(model: Any) -> Any:
    """The settings of the encoder; a finetuned model keeps those of its pretraining."""
    pretrained = model.get("w2v_args")
    if pretrained is None:
        return model
    pretrained = mapping(pretrained)
    return mapping(pretrained.get("model") or pretrained)


def encoder_name(state: Mapping[str, Any]) -> str | None:
    """What fairseq's registry calls the encoder in a pretrained or finetuned checkpoint."""
    for model in models_in(state):
        encoder = encoder_of(model)
        return encoder.get("_name") or encoder.get("arch")
    return None


def setting(state: Mapping[str, Any], section: str, name: str, default: Any) -> Any:
    """A setting of training; those of 2020 have no sections."""
    cfg = state.get("cfg")
    settings = mapping(cfg.get(section)) if cfg else vars(state["args"])
    value = settings.get(name)
    return default if value is None else value


def updates_of(state: Mapping[str, Any]) -> int | None:
    """How often training had updated the weights; None if the checkpoint does not tell."""
    history = state.get("optimizer_history")
    return history[-1].get("num_updates") if history else None


def seed_of(state: Mapping[str, Any]) -> int:
    """What training was seeded by: fairseq's own default, if the checkpoint does not tell."""
    return int(setting(state, "common", "seed", 1))
