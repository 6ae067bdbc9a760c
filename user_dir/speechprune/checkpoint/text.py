"""Files of encoders of text: what they say of the network, in today's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from speechprune.backbones import backbone_called
from speechprune.checkpoint.file import PathLike, read
from speechprune.checkpoint.settings import mapping
from speechprune.checkpoint.upgrading import read_upgraded
from speechprune.errors import UserError
from speechprune.state_names import SYMBOL_EMBEDDINGS, VOCABULARY, is_text


@dataclass(frozen=True)
class TextModel:
    """A pretrained or finetuned model of text.

    Attributes:
        settings: of the model, with its `vocabulary`.
        weights: its state dict, under the names of its time.
    """

    settings: Mapping[str, Any]
    weights: Mapping[str, Tensor]


def check_text_model(path: PathLike) -> None:
    """Raise UserError unless a file holds a model of text of a known family."""
    state = read(path, mmap=True)
    if not is_text(state["model"]):
        raise UserError(
            f"{path} holds no encoder of text; give a pretrained RoBERTa as model.roberta_path"
        )


def read_text_model(path: PathLike) -> TextModel:
    """The model of text in a file.

    Raises:
        UserError: the file cannot be read, or holds none of a known family.
    """
    check_text_model(path)
    state = read_upgraded(path)
    settings = dict(mapping(state["cfg"].model))
    try:
        backbone_called(str(settings.get("_name") or settings.get("arch")))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    weights = state["model"]
    older = SYMBOL_EMBEDDINGS.replace("encoder.", "decoder.", 1)
    embeddings = weights.get(SYMBOL_EMBEDDINGS, weights.get(older))
    if embeddings is None:
        raise UserError(f"{path} lacks the embeddings of its symbols; it is damaged")
    return TextModel({**settings, VOCABULARY: len(embeddings)}, weights)
