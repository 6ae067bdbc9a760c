"""The encoder of a finetuned checkpoint, as a pretrained one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.layers import lost_layers
from speechprune.checkpoint.pretrained import pretrained_state
from speechprune.checkpoint.slimming import refuse_uncut
from speechprune.checkpoint.text import symbols_noted
from speechprune.rewriting.plain_checkpoint import read_plain_finetuned
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
    """Write the encoder of a finetuned checkpoint as a pretrained one, fit for `model.w2v_path`,
    or of text for `model.roberta_path`.

    Masks are baked in; the tensors have the types of the source.

    Raises:
        UserError: the source cannot be read or is not a finetuned model, or has removed heads
            and channels that are not cut out, or ``out`` is the source or cannot be written.
    """
    rewriting = Rewriting(path, out)
    refuse_uncut(path, rewriting.state["model"], "which training would let grow again")
    found = encoder_of_finetuned(path)
    noted: dict[str, Any] = {
        "encoder_of": rewriting.digest,
        **lost_by(rewriting.state),
        **symbols_noted(rewriting.state),
    }
    exported = pretrained_state(found.weights, found.task, found.model, updates=0)
    # The dictionary is that of the head, which stays behind.
    rewriting.write(exported, noted, forget=("target_dictionary",))


def lost_by(state: Mapping[str, Any]) -> dict[str, Any]:
    """What to note of the layers that a checkpoint's model has lost; nothing if it has all."""
    lost = lost_layers(state)
    return {} if lost is None else {"layers": lost.layers, "dropped": list(lost.dropped)}


def encoder_of_finetuned(path: PathLike) -> EncoderFile:
    """The encoder in a finetuned checkpoint, masks baked in; raises UserError as `read_known`."""
    found = read_plain_finetuned(path)
    pretraining = found.pretraining
    return EncoderFile(encoder_tensors(found.tensors), pretraining["task"], pretraining["model"])
