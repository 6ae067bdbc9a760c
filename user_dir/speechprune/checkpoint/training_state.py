"""What a checkpoint tells of its training and its task: whether it is what fairseq saves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fairseq.data.dictionary import Dictionary
from torch import Tensor

from speechprune.checkpoint.kinds import NUMBER, is_one_of
from speechprune.errors import UserError
from speechprune.state_names import HEAD

#: fairseq finetunes from a checkpoint only if it tells of an optimizer.
HISTORY: Mapping[str, Any] = {
    "criterion_name": "CtcCriterion",
    "optimizer_name": "FairseqAdam",
    "lr_scheduler_state": {},
    "num_updates": 0,
}
#: Where a checkpoint of ours keeps what fairseq has no place for.
PROVENANCE = "speechprune"

#: The classes of fairseq's meters that are saved, and the types of what they tell.
_METERS = ("AverageMeter", "ConcatTensorMeter", "StopwatchMeter", "SumMeter", "TimeMeter")
_MEASURED = (int, float, Tensor, type(None))


def refuse_other_types(state: Mapping[str, Any], path: object) -> None:
    """Raise UserError if what a checkpoint tells beside weights and settings is damaged.

    What is missing, or None, is not.
    """
    for name, is_so in _PARTS.items():
        if state.get(name) is not None and not is_so(state[name]):
            raise UserError(f"{path} is damaged: its {name} is not what fairseq saves")
    _check_dictionary(state, path)


def _part(whole: Mapping[Any, Any], name: str, default: Any) -> Any:
    """What a dict holds under a name, where it is missing or None the default."""
    found = whole.get(name)
    return default if found is None else found


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, dict)
        and _is_count(entry.get("num_updates", 0))
        and isinstance(_part(entry, "lr_scheduler_state", {}), dict)
        for entry in value
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_extra_state(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    place = _part(value, "train_iterator", {})
    numbers = [value.get(name) for name in ("val_loss", "best", "previous_training_time")]
    return (
        isinstance(place, dict)
        and all(_is_count(place.get(name, 0)) for name in ("epoch", "iterations_in_epoch"))
        and all(map(_is_number_or_none, numbers))
        and _are_metrics(_part(value, "metrics", {}))
    )


def _is_number_or_none(value: Any) -> bool:
    # Where processes have summed it up, it is a tensor.
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return value is None or is_one_of(value, NUMBER)


def _are_metrics(value: Any) -> bool:
    """Whether these are groups of meters as fairseq saves them: for each meter a priority, a name,
    a class, of which fairseq makes one, and what it measured."""
    try:
        meters = [meter for group in value.values() for meter in group]
        return all(
            kind in _METERS and all(isinstance(each, _MEASURED) for each in state.values())
            for _, _, kind, state in meters
        )
    except (AttributeError, TypeError, ValueError):
        return False


def _is_task_state(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    target = value.get("target_dictionary")
    others = _part(value, "dictionaries", [])
    return (
        (target is None or _is_dictionary(target))
        and isinstance(others, (list, tuple))
        and all(map(_is_dictionary, others))
    )


def _is_dictionary(value: Any) -> bool:
    if not isinstance(value, Dictionary):
        return False
    parts = vars(value)
    symbols, counts, indices = (parts.get(name) for name in ("symbols", "count", "indices"))
    marks = [parts.get(f"{name}_index") for name in ("bos", "pad", "eos", "unk")]
    return (
        isinstance(symbols, list)
        and all(isinstance(symbol, str) for symbol in symbols)
        and isinstance(counts, list)
        and len(counts) == len(symbols)
        and all(map(_is_count, counts))
        and isinstance(indices, dict)
        and len(indices) == len(symbols)
        and all(type(indices.get(s)) is int and indices[s] == i for i, s in enumerate(symbols))
        and all(_is_count(mark) and mark < len(symbols) for mark in marks)
        and _is_count(parts.get("nspecial"))
    )


def _is_optimizer_state(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    groups = _part(value, "param_groups", [])
    return (
        isinstance(_part(value, "state", {}), dict)
        and isinstance(groups, list)
        and all(isinstance(group, dict) for group in groups)
    )


def _is_provenance(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    symbols, dropped = _part(value, "target_dictionary", []), _part(value, "dropped", [])
    density, layers = _part(value, "density", 1.0), _part(value, "layers", 0)
    return (
        isinstance(symbols, list)
        and all(_is_counted_symbol(entry) for entry in symbols)
        and is_one_of(density, NUMBER)
        and 0 <= density <= 1
        and _is_count(layers)
        and isinstance(dropped, (list, tuple))
        and all(map(_is_count, dropped))
        and isinstance(_part(value, "averaged", []), list)
    )


def _is_counted_symbol(entry: Any) -> bool:
    return (
        isinstance(entry, (list, tuple))
        and len(entry) == 2
        and isinstance(entry[0], str)
        and _is_count(entry[1])
    )


_PARTS: Mapping[str, Callable[[Any], bool]] = {
    "optimizer_history": _is_history,
    "extra_state": _is_extra_state,
    "task_state": _is_task_state,
    "last_optimizer_state": _is_optimizer_state,
    PROVENANCE: _is_provenance,
}


def _check_dictionary(state: Mapping[str, Any], path: object) -> None:
    """Raise UserError if the dictionary of a finetuned model has not a symbol for each output."""
    dictionary = (state.get("task_state") or {}).get("target_dictionary")
    head = state["model"].get(HEAD + "weight")
    if dictionary is None or head is None:
        return
    outputs = head.shape[0] if head.dim() else 0
    if len(dictionary.symbols) != outputs:
        raise UserError(
            f"{path} is damaged: its dictionary has {len(dictionary.symbols)} symbols, but its "
            f"output layer {outputs} outputs"
        )
