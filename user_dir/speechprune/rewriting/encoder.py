"""The encoder of a finetuned checkpoint, as a pretrained one."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from torch import Tensor

from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.layers import lost_layers
from speechprune.checkpoint.pretrained import pretrained_state
from speechprune.models.declaration import declared
from speechprune.models.loading import load_finetuned, read_known
from speechprune.rewriting.folding import folded_weights
from speechprune.rewriting.rewriting import Rewriting
from speechprune.state_names import encoder_tensors


@dataclass(frozen=True)
class EncoderFile:
    """What a pretrained checkpoint says of an encoder.

    Attributes:
        weights: its tensors, without pretraining heads.
        task, model: settings of its pretraining, as plain containers.
    """

    weights: Mapping[str, Tensor]
    task: Mapping[str, Any]
    model: Mapping[str, Any]


def export_encoder(path: PathLike, out: PathLike) -> None:
    """Write the encoder of a finetuned checkpoint as a pretrained one, fit for `model.w2v_path`.

    Masks are baked in; the tensors have the types of the source.

    Raises:
        UserError: the source cannot be read or is not a finetuned CTC model, or ``out`` is the
            source or cannot be written.
    """
    rewriting = Rewriting(path, out)
    found = encoder_of_finetuned(path)
    noted: dict[str, Any] = {"encoder_of": rewriting.digest, **lost_by(rewriting.state)}
    exported = pretrained_state(found.weights, found.task, found.model, updates=0)
    # The dictionary is that of the head, which stays behind.
    rewriting.write(exported, noted, forget=("target_dictionary",))


def lost_by(state: Mapping[str, Any]) -> dict[str, Any]:
    """What to note of the layers that a checkpoint's model has lost; nothing if it has all."""
    lost = lost_layers(state)
    return {} if lost is None else {"layers": lost.layers, "dropped": list(lost.dropped)}


def encoder_of_finetuned(path: PathLike) -> EncoderFile:
    """The encoder in a finetuned checkpoint, masks baked in; raises UserError as `read_known`."""
    state = read_known(path)
    settings = state["cfg"].model.w2v_args
    if isinstance(settings, Namespace):
        settings = convert_namespace_to_omegaconf(settings)
    pretrained: Any = OmegaConf.to_container(settings, resolve=True, enum_to_str=True)
    weights = state["model"]
    # A plain model is not built: the published ones of 2020 lack the dictionary that it takes.
    if declared(state["cfg"].model._name).needs_folding:
        weights = folded_weights(load_finetuned(path))
    return EncoderFile(encoder_tensors(weights), pretrained["task"], pretrained["model"])
