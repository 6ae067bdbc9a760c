"""The speech encoder of any checkpoint, pretrained or finetuned."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from speechprune import __version__
from speechprune.backbones import BACKBONES
from speechprune.checkpoint.file import PathLike, digest, read, write
from speechprune.checkpoint.finetuned import (
    PROVENANCE,
    is_finetuned,
    load_finetuned,
    read_finetuned,
)
from speechprune.checkpoint.folding import folded_weights
from speechprune.checkpoint.pretrained import model_name, pretrained_settings, pretrained_state
from speechprune.files import refuse_to_replace
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.models.layer_settings import lost_layers

#: Where a finetuned checkpoint keeps the encoder's tensors.
_ENCODER = "w2v_encoder.w2v_model."


def load_encoder(path: PathLike) -> nn.Module:
    """The encoder in the checkpoint at ``path``, in evaluation mode, on the CPU, without gradient.

    That of a finetuned checkpoint with masks has them on.

    Raises:
        UserError: the file cannot be read, or holds no encoder of a registered family.
    """
    if is_finetuned(read(path, mmap=True)):
        model = load_finetuned(path).model
        encoder: nn.Module = model.w2v_encoder.w2v_model  # type: ignore[assignment, union-attr]
        return encoder
    encoder = BACKBONES.build(model_name(path)).load(path)
    return encoder.requires_grad_(False)


def listening(path: PathLike) -> tuple[bool, int]:
    """How a checkpoint wants to hear audio: normalised to mean 0 and variance 1, and at what rate.

    Raises:
        UserError: the file cannot be read, or holds no speech encoder.
    """
    if is_finetuned(read(path, mmap=True)):
        task: Mapping[str, Any] = read_finetuned(path)["cfg"].task
        normalize = task.get("normalize")
    else:
        task, model = pretrained_settings(path)
        normalize = task.get("normalize", model.get("normalize"))
    return bool(normalize), int(task.get("sample_rate") or SAMPLE_RATE)


def export_encoder(path: PathLike, out: PathLike) -> None:
    """Write the encoder of a finetuned checkpoint as a pretrained one, fit for `model.w2v_path`.

    Masks are baked in; the tensors have the types of the source.

    Raises:
        UserError: the source cannot be read or is no finetuned CTC model, or ``out`` is the source
            or cannot be written.
    """
    refuse_to_replace(out, path)
    state = read_finetuned(path)
    pretrained = _pretrained_configuration(state["cfg"])
    noted = dict(state.get(PROVENANCE) or {})
    noted.pop("target_dictionary", None)  # of the head, which stays behind
    lost = lost_layers(state)
    if lost is not None:
        noted.update(layers=lost.layers, dropped=list(lost.dropped))
    provenance = {**noted, "version": __version__, "encoder_of": digest(path)}
    exported = pretrained_state(
        _encoder_weights(path, state), pretrained["task"], pretrained["model"], updates=0
    )
    write({**exported, PROVENANCE: provenance}, out)


def initialised_anew(encoder: nn.Module, seed: int) -> nn.Module:
    """An encoder of the same settings with random weights, as pretraining would start from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(encoder)(encoder.cfg)
    fresh.remove_pretraining_modules()
    return fresh.eval().requires_grad_(False)


def _pretrained_configuration(cfg: DictConfig) -> dict[str, Any]:
    """The settings of pretraining that a finetuned model keeps."""
    pretrained = cfg.model.w2v_args
    if isinstance(pretrained, Namespace):
        pretrained = convert_namespace_to_omegaconf(pretrained)
    container: Any = OmegaConf.to_container(pretrained, resolve=True, enum_to_str=True)
    return container


def _encoder_weights(path: PathLike, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The encoder's tensors, under the names that they have in a pretrained checkpoint."""
    weights = state["model"]
    # A plain model is not built: the published ones of 2020 lack the dictionary that it takes.
    if state["cfg"].model._name != "wav2vec_ctc":
        weights = folded_weights(load_finetuned(path))
    return {key[len(_ENCODER) :]: w for key, w in weights.items() if key.startswith(_ENCODER)}
