"""What the outputs of a task stand for, as a bank notes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechprune.bank.task import LABELS, LETTERS, UNITS
from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.finetuned import find_dictionary
from speechprune.checkpoint.outputs import counted_symbols, dictionary_of
from speechprune.checkpoint.slots import described_slots, saved_slots
from speechprune.decoding.greedy import spells_words
from speechprune.errors import UserError
from speechprune.models.names import is_labelling

#: How error rates are called; that of labels counts utterances with a wrong class.
_RATES: Mapping[str, str] = {LETTERS: "WER", UNITS: "UER", LABELS: "error"}


def outputs_of(state: Mapping[str, Any], path: PathLike) -> dict[str, Any]:
    """What a bank notes of a finetuned checkpoint's outputs, as JSON can hold it: their ``kind``,
    how many ``labels`` there are, and what a checkpoint's ``task_state`` is made of.

    Args:
        state: as `speechprune.models.loading.read_known` gives it.

    Raises:
        UserError: the checkpoint has neither slots nor a dictionary, or one whose first symbols are
            not fairseq's.
    """
    if is_labelling(state["cfg"].model._name):
        slots = saved_slots(state, path)
        if slots is None:
            raise UserError(f"{path} is damaged: it lacks the classes that its outputs stand for")
        classes = sum(len(slot.classes) for slot in slots)
        return {"kind": LABELS, "labels": classes, **described_slots(slots)}
    dictionary = find_dictionary(state, state["cfg"], Path(path), None)
    counted = counted_symbols(dictionary)
    if dictionary_of(counted).symbols != dictionary.symbols:
        raise UserError(
            f"{path}: its dictionary has other special symbols than <s> <pad> </s> <unk>, which a "
            "bank does not keep"
        )
    kind = LETTERS if spells_words(dictionary) else UNITS
    return {"kind": kind, "labels": len(counted), "target_dictionary": counted}


def rate_of(kind: str) -> str:
    """How the error rate of a kind of outputs is called."""
    return _RATES[kind]
