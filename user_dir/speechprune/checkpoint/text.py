"""Files of encoders of text: what they say of the network, in today's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq.data.dictionary import Dictionary
from torch import Tensor

from speechprune.backbones import backbone_called
from speechprune.checkpoint.file import PROVENANCE, PathLike, read
from speechprune.checkpoint.outputs import dictionary_of
from speechprune.checkpoint.settings import mapping
from speechprune.checkpoint.upgrading import read_upgraded, upgraded
from speechprune.errors import UserError
from speechprune.manifests.dictionary import digest_of_symbols
from speechprune.manifests.glue.tasks import SENTENCES
from speechprune.state_names import SYMBOL_EMBEDDINGS, VOCABULARY, is_text

#: Where the state of the task for sentences keeps the symbols of texts and those of classes.
SYMBOLS, CLASSES = "source_symbols", "label_symbols"
#: The symbol for masked words, which the task adds to each dictionary that it reads.
MASK = "<mask>"


@dataclass(frozen=True)
class TextModel:
    """A pretrained or finetuned model of text.

    Attributes:
        settings: of the model, with its `vocabulary`.
        weights: its state dict.
        symbols: of texts; None if the file does not tell them, as those of pretraining do not.
        dictionary: the digest of the symbols of pretraining, see `symbols_digest`; None likewise.
    """

    settings: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    symbols: Dictionary | None
    dictionary: str | None


def check_text_model(path: PathLike) -> None:
    """Raise UserError unless a file holds a model of text of a known family."""
    state = read(path, mmap=True)
    if not is_text(state["model"]):
        raise UserError(
            f"{path} holds no encoder of text; give a pretrained RoBERTa as model.roberta_path"
        )


def refuse_text(path: PathLike, why: str) -> None:
    """Raise UserError, which says why, if a file holds a model of text."""
    if is_text(read(path, mmap=True)["model"]):
        raise UserError(f"{path} is a model of text; {why}")


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
    weights = todays_names(state["model"])
    symbols = saved_symbols(state, SYMBOLS)
    dictionary = (state.get(PROVENANCE) or {}).get("dictionary")
    return TextModel(with_vocabulary(settings, weights, path), weights, symbols, dictionary)


def with_vocabulary(
    settings: Mapping[str, Any], weights: Mapping[str, Tensor], path: PathLike
) -> dict[str, Any]:
    """The settings of a model of text, and how many symbols it has, which only its weights tell;
    raises UserError if they lack the embeddings of symbols."""
    if SYMBOL_EMBEDDINGS not in weights:
        raise UserError(f"{path} lacks the embeddings of its symbols; it is damaged")
    return {**settings, VOCABULARY: len(weights[SYMBOL_EMBEDDINGS])}


def todays_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of whatever year, under the names that fairseq brings it to when it loads it:
    those of 2019 and 2020, the published ones, call the encoder a decoder, and some have the
    projections of queries, keys and values in one tensor."""
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key.startswith("decoder."):
            key = f"en{key[2:]}"
        key = key.replace(".emb_layer_norm.", ".layernorm_embedding.")
        owner, _, name = key.rpartition(".in_proj_")
        if owner.endswith("self_attn"):
            for part, projection in zip(value.chunk(3), ("q_proj", "k_proj", "v_proj")):
                renamed[f"{owner}.{projection}.{name}"] = part
        else:
            renamed[key] = value
    return renamed


def saved_symbols(state: Mapping[str, Any], kind: str) -> Dictionary | None:
    """The dictionary that a checkpoint holds of the `SYMBOLS` of texts, or of the `CLASSES` of
    sentences; None if it holds none."""
    counted = (state.get("task_state") or {}).get(kind)
    try:
        return None if counted is None else dictionary_of(counted)
    except (TypeError, ValueError) as error:
        raise UserError(f"the checkpoint's {kind} are damaged: {counted}"[:200]) from error


def symbols_noted(state: Mapping[str, Any]) -> dict[str, str]:
    """What to note of the symbols of texts in a checkpoint made of another one, which may keep no
    dictionary: their digest, which `TextModel` reads; nothing if they are not known."""
    symbols = saved_symbols(state, SYMBOLS)
    if symbols is None:
        return {}
    own = symbols.symbols[symbols.nspecial :]
    return {"dictionary": digest_of_symbols(symbol for symbol in own if symbol != MASK)}


def find_symbols(
    state: Mapping[str, Any], kind: str, path: PathLike, folder: PathLike | None
) -> Dictionary:
    """The same, or else from a data folder of the task.

    Args:
        path: of the checkpoint.
        folder: of data; None to look in the one that the settings name.

    Raises:
        UserError: it is nowhere.
    """
    found = saved_symbols(state, kind)
    if found is not None:
        return found
    name = {SYMBOLS: "input0", CLASSES: "label"}[kind]
    file = Path(str(folder or state["cfg"].task.get("data") or "."), name, "dict.txt")
    if not file.is_file():
        raise UserError(
            f"{path} was trained by fairseq alone and holds no dictionaries; give the data folder "
            f"with its {name}/dict.txt"
        )
    from fairseq.tasks.sentence_prediction import SentencePredictionTask

    dictionary: Dictionary = SentencePredictionTask.load_dictionary(str(file))
    return dictionary


def read_sentence_model(path: PathLike) -> dict[str, Any]:
    """The state of a finetuned model of text, its configuration in today's form.

    Raises:
        UserError: the file cannot be read, or holds a model for another task.
    """
    state = upgraded(read(path, mmap=True), path)
    name = (state["cfg"].get("task") or {}).get("_name")
    if name != SENTENCES:
        raise UserError(f"{path} is a model of text for the task {name}, not for {SENTENCES}")
    return {**state, "model": todays_names(state["model"])}
