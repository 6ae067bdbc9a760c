"""What the outputs of a finetuned checkpoint stand for: each row of its head is one symbol's.

Symbols are numbered by the dictionary that a model was trained with; another one may list the same
symbols in another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from fairseq.data.dictionary import Dictionary
from torch import Tensor

from speechprune.checkpoint.file import PROVENANCE, PathLike
from speechprune.errors import UserError
from speechprune.masking.bits import pack_bits, unpack_bits
from speechprune.masking.injection import grown_again
from speechprune.masking.mask_set import SYMBOLS, MaskSet
from speechprune.state_names import (
    HEAD_SITES,
    key_of,
    mask_key,
    observed_key,
    regrown_key,
    scores_key,
    sibling,
)

#: Symbols that a message names, at most.
_NAMED = 10


def saved_dictionary(state: Mapping[str, Any]) -> Dictionary | None:
    """The dictionary of the outputs that a checkpoint holds; None if it holds none."""
    dictionary: Dictionary | None = (state.get("task_state") or {}).get("target_dictionary")
    if dictionary is not None:
        return dictionary
    counted = (state.get(PROVENANCE) or {}).get("target_dictionary")
    return None if counted is None else dictionary_of(counted)


def counted_symbols(dictionary: Dictionary) -> list[list[Any]]:
    """[symbol, count] of every symbol that is not one of fairseq's own."""
    own = dictionary.nspecial
    return [[s, int(n)] for s, n in zip(dictionary.symbols[own:], dictionary.count[own:])]


def dictionary_of(counted: Iterable[Sequence[Any]]) -> Dictionary:
    """The dictionary of which `counted_symbols` were taken."""
    dictionary = Dictionary()
    for symbol, count in counted:
        dictionary.add_symbol(symbol, n=count)
    return dictionary


def spelt(dictionary: Dictionary) -> str:
    """The symbols of a dictionary in order, without fairseq's own, parted by spaces."""
    return " ".join(dictionary.symbols[dictionary.nspecial :])


def has_outputs(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has a CTC head."""
    return key_of(HEAD_SITES[0]) in state["model"]


def rows_by_symbol(
    path: PathLike, found: Dictionary, own: Dictionary, source: PathLike
) -> Tensor | None:
    """Which row of a checkpoint's head each symbol of a run has.

    Args:
        path, found: the checkpoint and its dictionary.
        own, source: the run's dictionary, and where it is from.

    Returns:
        int64 (symbols,); None if the rows are in the run's order already.

    Raises:
        UserError: one has symbols that the other lacks.
    """
    lacking = [symbol for symbol in own.symbols if symbol not in found.indices]
    unused = [symbol for symbol in found.symbols if symbol not in own.indices]
    if lacking or unused:
        differences = [f"{path} has no output for {_named(lacking)}"] if lacking else []
        differences += [f"{source} lacks its {_named(unused)}"] if unused else []
        raise UserError(
            f"{' and '.join(differences)}; give the dictionary that it was trained with as "
            "task.target_dictionary=FOLDER, or begin from a pretrained model for new outputs"
        )
    rows = [found.indices[symbol] for symbol in own.symbols]
    return None if rows == list(range(len(found))) else torch.tensor(rows)


def reorder_outputs(state: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """A checkpoint whose head has its rows in another order, that of its moving average too.

    Args:
        rows: int64 (symbols,), as `rows_by_symbol` gives them.
    """
    changed = {**state, "model": _reordered(state["model"], rows)}
    extra = dict(state.get("extra_state") or {})
    for averaged in ("ema", "ema_fp32_params"):
        if extra.get(averaged):
            extra[averaged] = _reordered(extra[averaged], rows)
    if extra:
        changed["extra_state"] = extra
    return changed


def masks_by_symbol(masks: MaskSet, own: Dictionary) -> MaskSet:
    """Masks whose output layer, if it has any, follows a model's dictionary.

    Raises:
        UserError: they are of other symbols.
    """
    symbols = masks.provenance.get(SYMBOLS)
    heads = [site for site in HEAD_SITES if site in masks]
    if symbols is None or not heads or symbols == spelt(own):
        return masks
    found = Dictionary()
    for symbol in symbols.split():
        found.add_symbol(symbol)
    rows = rows_by_symbol("the mask of the output layer", found, own, "the model's dictionary")
    assert rows is not None
    changed = {site: mask[rows] if site in heads else mask for site, mask in masks.items()}
    return MaskSet(changed, {**masks.provenance, SYMBOLS: spelt(own)})


def _reordered(tensors: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    changed = dict(tensors)
    for key in map(key_of, HEAD_SITES):
        if key not in tensors:
            continue
        weight, scores_at = tensors[key], sibling(key, scores_key)
        changed[key] = weight[rows]
        for at in (scores_at, sibling(key, observed_key)):
            if at in tensors:
                changed[at] = _take(tensors[at], rows)
        mask_at, regrown_at = sibling(key, mask_key), sibling(key, regrown_key)
        if mask_at not in tensors:
            continue
        mask = unpack_bits(tensors[mask_at], tensors.get(scores_at, weight).shape)
        moved = _take(mask, rows)
        changed[mask_at] = pack_bits(moved)
        if regrown_at in tensors:
            grown = grown_again(key, weight, mask, tensors[regrown_at])
            changed[regrown_at] = grown[rows][~moved].to(tensors[regrown_at])
    return changed


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """``values`` with rows in another order; those of columns, (1, C), have one row for all."""
    return values[rows] if len(values) == len(rows) else values


def _named(symbols: Sequence[str]) -> str:
    names = ", ".join(map(repr, symbols[:_NAMED]))
    more = len(symbols) - _NAMED
    return f"{names} and {more} more" if more > 0 else names
