"""The heads of finetuned models as Hugging Face has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.finetuned import find_dictionary, read_finetuned
from speechprune.checkpoint.slots import saved_slots
from speechprune.errors import UserError
from speechprune.exporting.huggingface_names import (
    Named,
    ctc_head_names,
    fitting,
    label_head_names,
)
from speechprune.exporting.huggingface_vocabulary import (
    special_tokens,
    tokenizer_config,
    vocabulary_of,
)
from speechprune.exporting.network import Network
from speechprune.models.label_head import WIDTH
from speechprune.models.names import is_labelling
from speechprune.rewriting.plain_checkpoint import PlainCheckpoint
from speechprune.state_names import FINETUNED


@dataclass(frozen=True)
class Head:
    """What Hugging Face calls a model with a head, and what belongs to it.

    Attributes:
        suffix: of its class's name; "Model" for a bare encoder.
        config: settings.
        tensors: by name.
        files: further ones in the folder, as JSON holds them.
    """

    suffix: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)


def head_of(plain: PlainCheckpoint, network: Network, path: PathLike) -> Head:
    """What a checkpoint has besides its encoder; of a pretrained one, whose heads are left out,
    nothing.

    Args:
        path: of what the user gave.

    Raises:
        UserError: Hugging Face has no such head, or the checkpoint lacks its classes or symbols.
    """
    if not plain.prefix:
        return Head("Model")
    if is_labelling(plain.cfg["model"]["_name"]):
        return _label_head(plain, network, path)
    return _ctc_head(plain, network, path)


def _ctc_head(plain: PlainCheckpoint, network: Network, path: PathLike) -> Head:
    blank_weight = plain.cfg["model"].get("blank_weight")
    if blank_weight:
        raise UserError(
            f"{path} adds {blank_weight} to its blank (model.blank_weight), for which Hugging Face "
            "has no place"
        )
    state = read_finetuned(plain.path)
    dictionary = find_dictionary(state, state["cfg"], Path(plain.path), None)
    vocabulary = vocabulary_of(dictionary, path)
    files = {
        "vocab.json": vocabulary,
        "tokenizer_config.json": tokenizer_config(dictionary),
        "special_tokens_map.json": special_tokens(),
    }
    config = {"vocab_size": len(vocabulary), "ctc_zero_infinity": True}
    names = ctc_head_names(network, len(vocabulary))
    return Head("ForCTC", config, _renamed(names, plain, path), files)


def _label_head(plain: PlainCheckpoint, network: Network, path: PathLike) -> Head:
    slots = saved_slots(read_finetuned(plain.path), path)
    if slots is None or len(slots) != 1:
        count = 0 if slots is None else len(slots)
        raise UserError(f"{path} tells {count} slots, and a head of Hugging Face's tells one")
    if network.layer_norm_first:
        raise UserError(
            f"{path}: its layers begin with their norm, so that its head reads the output of the "
            "last one after one more norm, and that of Hugging Face before it"
        )
    classes = slots[0].classes
    config = {
        "use_weighted_layer_sum": True,
        "classifier_proj_size": WIDTH,
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
    }
    names = label_head_names(network, WIDTH, len(classes))
    return Head("ForSequenceClassification", config, _renamed(names, plain, path))


def _renamed(names: Sequence[Named], plain: PlainCheckpoint, path: PathLike) -> dict[str, Tensor]:
    return {
        each.hugging_face: fitting(plain.tensors, FINETUNED + each.fairseq, each, path)
        for each in names
    }
