"""An encoder of one family in the file of another that has the same network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from speechprune.backbones import BACKBONES, backbone_called, find_backbone
from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.pretrained import pretrained_settings, pretrained_state
from speechprune.checkpoint.settings import plain, updates_of
from speechprune.checkpoint.slimming import refuse_gates
from speechprune.errors import UserError
from speechprune.models.encoder import load_weights
from speechprune.models.loading import load_encoder
from speechprune.rewriting.encoder import EncoderFile, encoder_of_finetuned, lost_by
from speechprune.rewriting.rewriting import Rewriting
from speechprune.state_names import is_finetuned

#: Lengths of the audio on which both files have to agree, in samples: odd and even frame counts.
_LENGTHS = (4000, 4320)


def convert(
    path: PathLike, out: PathLike, *, to: str = "wav2vec2", dtype: torch.dtype | None = None
) -> None:
    """Write the encoder of any checkpoint as a pretrained one of another family.

    Both give equal outputs without padding, which is checked before anything is written.

    Args:
        to: the family's name in fairseq's registry.
        dtype: of the floating-point tensors; that of the source by default. What is checked is
            then the rounded network.

    Raises:
        UserError: the source cannot be read, its family cannot be converted, the outputs differ, or
            ``out`` is the source or cannot be written.
    """
    rewriting = Rewriting(path, out)
    refuse_gates(path, rewriting.state["model"])
    if is_finetuned(rewriting.state["model"]):
        found = encoder_of_finetuned(path)
    else:
        task, model = map(plain, pretrained_settings(path))
        found = EncoderFile(rewriting.state["model"], task, model)
    encoder = load_encoder(path)
    family = find_backbone(encoder)
    settings = family.settings_as(to, found.model)
    if settings is None:
        known = [
            other.fairseq_name
            for other in map(BACKBONES.build, BACKBONES.names())
            if family.settings_as(other.fairseq_name, found.model) is not None
        ]
        raise UserError(
            f"{path} holds a {family.fairseq_name} model, which cannot be converted to {to!r}"
            + (f", but to {', '.join(known)}" if known else "")
        )
    weights = _weights(found.weights, encoder, dtype)
    _refuse_other_output(path, encoder, weights, settings, to)
    task = {"_name": "audio_pretraining", **_heard(found.task)}
    updates = updates_of(rewriting.state) or 0
    noted = {
        "converted_from": rewriting.digest,
        "converted": family.fairseq_name,
        **lost_by(rewriting.state),
    }
    exported = pretrained_state(weights, task, settings, updates)
    rewriting.write(exported, noted, forget=("target_dictionary",))


def _weights(
    weights: Mapping[str, Any], encoder: nn.Module, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """The encoder's own tensors in the order of the file."""
    own = encoder.state_dict()
    return {
        name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
        if name in own
    }


def _heard(task: Mapping[str, Any]) -> dict[str, Any]:
    """How the encoder wants to hear audio."""
    return {key: task[key] for key in ("sample_rate", "normalize") if task.get(key) is not None}


def _refuse_other_output(
    path: PathLike,
    encoder: nn.Module,
    weights: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    to: str,
) -> None:
    """Raise UserError unless the new encoder gives what the old one does, rounding alike."""
    converted = backbone_called(to).build({}, settings)
    load_weights(converted, weights, path)
    load_weights(encoder, weights, path)
    generator = torch.Generator().manual_seed(0)
    for length in _LENGTHS:
        audio = torch.randn(1, length, generator=generator)
        with torch.inference_mode():
            before, after = (
                find_backbone(model).features(model.eval(), audio, None)[0]
                for model in (encoder, converted.requires_grad_(False))
            )
        if not torch.equal(before, after):
            raise UserError(f"{path} gives other outputs as {to}, and was not converted")
