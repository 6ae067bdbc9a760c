"""What the outputs of a task stand for: as a checkpoint holds it, and as a bank does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.finetuned import find_dictionary
from speechprune.checkpoint.outputs import counted_symbols, dictionary_of
from speechprune.decoding.greedy import spells_words
from speechprune.errors import UserError

#: The kind of outputs that spell words; other symbols are units.
LETTERS = "letters"


def outputs_of(state: Mapping[str, Any], path: PathLike) -> dict[str, Any]:
    """What a bank notes of a finetuned checkpoint's outputs, as JSON can hold it.

    Args:
        state: as `speechprune.models.loading.read_known` gives it.

    Raises:
        UserError: the checkpoint has no dictionary, or one whose first symbols are not fairseq's.
    """
    dictionary = find_dictionary(state, state["cfg"], Path(path), None)
    counted = counted_symbols(dictionary)
    if dictionary_of(counted).symbols != dictionary.symbols:
        raise UserError(
            f"{path}: its dictionary has other special symbols than <s> <pad> </s> <unk>, which a "
            "bank does not keep"
        )
    kind = LETTERS if spells_words(dictionary) else "units"
    return {"kind": kind, "labels": len(counted), "target_dictionary": counted}


def task_state_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """The ``task_state`` of the checkpoint that `outputs_of` noted."""
    return {"target_dictionary": dictionary_of(about["target_dictionary"])}


def rate_of(kind: str) -> str:
    """How the error rate of a kind of outputs is called."""
    return "WER" if kind == LETTERS else "UER"
