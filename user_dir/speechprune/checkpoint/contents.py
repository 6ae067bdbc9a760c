"""What a checkpoint holds, validated in one place before anything else looks at it."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fairseq.data.dictionary import Dictionary
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from speechprune.checkpoint.evaluated import refuse_code
from speechprune.checkpoint.fitting import refuse_misfit
from speechprune.errors import UserError
from speechprune.state_names import HEAD, is_mask

#: Where a checkpoint of ours keeps what fairseq has no place for.
PROVENANCE = "speechprune"

#: The types that weights are trained and saved in.
_WEIGHTS = (torch.float32, torch.float16, torch.bfloat16)
_COUNTERS = (torch.int64, torch.int32)
#: Deeper, and more, than settings are.
_DEEPEST = 20
_MOST_SETTINGS = 50_000
#: What omegaconf would call a function for.
_RESOLVER = re.compile(r"\$\{[^}]*:")
_NUMBER = (int, float)
#: The classes of fairseq's meters that are saved, and the types of what they tell.
_METERS = ("AverageMeter", "ConcatTensorMeter", "StopwatchMeter", "SumMeter", "TimeMeter")
_MEASURED = (int, float, Tensor, type(None))

#: What some settings must be, in whatever section they are, if they have a value. fairseq checks
#: those of a model when it builds it; these are read before.
_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("_name", "arch", "w2v_path", "save_dir", "restore_file"), (str,)),
    **dict.fromkeys(("finetune_from_model", "best_checkpoint_metric", "target_dictionary"), (str,)),
    **dict.fromkeys(("train_subset", "valid_subset"), (str,)),
    **dict.fromkeys(("data", "labels"), (str, list)),
    **dict.fromkeys(("normalize", "maximize_best_checkpoint_metric"), (bool,)),
    **dict.fromkeys(("sample_rate", "encoder_embed_dim", "max_epoch", "patience", "seed"), (int,)),
    **dict.fromkeys(("label_rate", "max_update", "stop_min_lr", "stop_time_hours"), _NUMBER),
    "w2v_args": (dict, Namespace),
    "dropped_layers": (dict,),
    "encoder_layers": (int,),
}


def validated(found: Any, path: object) -> dict[str, Any]:
    """What was read from the file at ``path``, each part of the type that its readers rely on.

    Returns:
        A dict with, beside what no reader looks at,

        - ``model``: tensors by name, floating-point but for packed masks and counters; data2vec's
          teacher is a dict of tensors within.
        - ``cfg``: sections by name as plain containers, interpolations resolved; or ``args``, the
          namespace of 2020; either may be None, but not both.
        - ``optimizer_history``: a list of dicts, perhaps empty.
        - ``extra_state``, ``task_state``, ``last_optimizer_state`` and PROVENANCE: dicts, perhaps
          empty; those that are missing stay so.

        No setting names code: what fairseq evaluates is a literal, and ``user_dir`` is None.

    Raises:
        UserError: it is no fairseq checkpoint, or a part is of another type.
    """
    if not isinstance(found, dict):
        found = {}
    weights, cfg, args = found.get("model"), found.get("cfg"), found.get("args")
    if not isinstance(weights, dict) or all(_is_unset(settings) for settings in (cfg, args)):
        raise UserError(
            f"{path} is not a fairseq checkpoint: it has no `model` with its `cfg` or `args`"
        )
    state = dict(found)
    _check_tensors(weights, path)
    state["cfg"] = None if _is_unset(cfg) else _sections(cfg, path)
    state["args"] = None if _is_unset(args) else _namespace(args, path)
    for name, check in _PARTS.items():
        if state.get(name) is not None and not check(state[name]):
            raise UserError(f"{path} is damaged: its {name} is not what fairseq saves")
    _check_dictionary(state, path)
    for settings in (state["cfg"], state["args"]):
        refuse_code(settings, path)
    refuse_misfit(state, path)
    return state


def refuse_infinite(weights: Mapping[str, Any], path: object) -> None:
    """Raise UserError if a tensor holds NaN or infinity; reads each once."""
    for name, tensor in _tensors(weights):
        if tensor.is_floating_point() and tensor.numel():
            least, largest = tensor.aminmax()
            if not (math.isfinite(least) and math.isfinite(largest)):
                raise UserError(
                    f"{path}: {name} is not finite (it holds NaN or infinity); take a checkpoint "
                    "from before training diverged"
                )


# --- tensors ----------------------------------------------------------------------------------


def _tensors(weights: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """All by name, those of a teacher within a state dict (``_ema``) too."""
    found = []
    for name, value in weights.items():
        if isinstance(value, dict):
            found += [(f"{name}.{inner}", tensor) for inner, tensor in value.items()]
        else:
            found.append((name, value))
    return found


def _check_tensors(weights: Mapping[Any, Any], path: object) -> None:
    for name, tensor in _tensors(weights):
        if not isinstance(name, str):
            raise UserError(f"{path} is damaged: {name!r} is no name of a tensor")
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise UserError(f"{path}: {name} is not a tensor, but {_kind(tensor)}")
        if is_mask(name):
            is_known = tensor.dtype == torch.uint8
        else:
            # Some models count their batches.
            counts = tensor.dtype in _COUNTERS and not tensor.dim()
            is_known = tensor.dtype in _WEIGHTS or counts
        if not is_known:
            kind = str(tensor.dtype).partition(".")[2]
            raise UserError(
                f"{path}: {name} is {kind}, but "
                + ("packed masks are uint8" if is_mask(name) else "weights are floating-point")
                + "; save it again in the type that it was trained in"
            )


# --- settings ---------------------------------------------------------------------------------


def _is_unset(settings: Any) -> bool:
    return settings is None or (isinstance(settings, dict) and not settings)


def _sections(cfg: Any, path: object) -> dict[str, Any]:
    """Settings by section as plain containers."""
    plain = _resolved(_Plain(path, keep_namespaces=False).of(cfg, "cfg"))
    if not isinstance(plain, dict):
        raise UserError(f"{path} is damaged: its cfg is {_kind(cfg)}")
    for name in ("task", "model"):
        section = plain.get(name)
        if section is not None and not isinstance(section, dict):
            raise UserError(f"{path} is damaged: its cfg.{name} is {_kind(section)}")
    _check_types(plain, path)
    return plain


def _namespace(args: Any, path: object) -> Namespace:
    plain = _Plain(path, keep_namespaces=True).of(args, "args")
    if not isinstance(plain, Namespace):
        raise UserError(f"{path} is damaged: its args are {_kind(args)}")
    _check_types(vars(plain), path)
    return plain


class _Plain:
    """Makes plain copies of settings.

    Args:
        path: the file that they are of.
        keep_namespaces: or make dicts of them, with ``_name`` as newer settings have.
    """

    def __init__(self, path: object, *, keep_namespaces: bool) -> None:
        self.path = path
        self.keep_namespaces = keep_namespaces
        self.count = 0

    def of(self, value: Any, name: str) -> Any:
        """A copy of nested settings; raises UserError for what is no setting.

        Args:
            name: of the value, with those of all that it is in.
        """
        self.count += 1
        if self.count > _MOST_SETTINGS or name.count(".") > _DEEPEST:
            raise UserError(f"{self.path} is damaged: it has more settings than any model")
        if isinstance(value, (DictConfig, ListConfig)):
            value = self._contained(value, name)
        if isinstance(value, Namespace):
            inner = self.of(vars(value), name)
            return Namespace(**inner) if self.keep_namespaces else _named(inner)
        if isinstance(value, dict):
            pairs = ((key, self.of(each, f"{name}.{key}")) for key, each in value.items())
            return {key: None if key == "user_dir" else each for key, each in pairs}
        if isinstance(value, (list, tuple)):
            return type(value)([self.of(each, f"{name}.{i}") for i, each in enumerate(value)])
        if value is not None and type(value) not in (str, int, float, bool):
            raise UserError(
                f"{self.path} is damaged: {name} is {_kind(value)}, which is no setting"
            )
        if isinstance(value, str) and _RESOLVER.search(value):
            raise UserError(f"{self.path}: {name}={value[:60]} is refused: it names a function")
        return value

    def _contained(self, value: Any, name: str) -> Any:
        try:
            return OmegaConf.to_container(value, resolve=False, enum_to_str=True)
        # A damaged one may fail anywhere.
        except Exception as error:
            raise UserError(f"{self.path} is damaged: {name} cannot be read") from error


def _named(section: dict[str, Any]) -> dict[str, Any]:
    """A section with its name under the key of today."""
    for old in ("arch", "task"):
        if section.get("_name") is None and isinstance(section.get(old), str):
            section["_name"] = section[old]
    return section


def _resolved(plain: Any) -> Any:
    """Settings with what they take from others; what leads nowhere stays as it is written."""
    if "${" not in str(plain):
        return plain

    def value_of(node: Any, key: Any) -> Any:
        try:
            value = node[key]
        except OmegaConfBaseException:
            return OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index,call-overload]
        if isinstance(value, DictConfig):
            return {each: value_of(value, each) for each in value}
        if isinstance(value, ListConfig):
            return [value_of(value, index) for index in range(len(value))]
        return value

    whole = OmegaConf.create({"cfg": plain})
    return value_of(whole, "cfg")


def _check_types(settings: Any, path: object) -> None:
    """Raise UserError if a setting of _TYPES is of another type."""
    if isinstance(settings, Namespace):
        settings = vars(settings)
    if isinstance(settings, dict):
        for name, value in settings.items():
            types = _TYPES.get(name)
            if types and value is not None and not _is_one_of(value, types):
                raise UserError(f"{path} is damaged: its setting {name} is {_kind(value)}")
            _check_types(value, path)


def _is_one_of(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


# --- other parts ------------------------------------------------------------------------------


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
        and all(number is None or _is_one_of(number, _NUMBER) for number in numbers)
        and _are_metrics(_part(value, "metrics", {}))
    )


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
        and indices == {symbol: index for index, symbol in enumerate(symbols)}
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
        and _is_one_of(density, _NUMBER)
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


def _kind(value: Any) -> str:
    """A value's type, as a noun."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
