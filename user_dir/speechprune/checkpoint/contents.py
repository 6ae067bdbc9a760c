"""What a checkpoint holds, validated in one place before anything else looks at it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from speechprune.checkpoint.fitting import refuse_misfit
from speechprune.checkpoint.kinds import described
from speechprune.checkpoint.plain_settings import plain_namespace, plain_sections
from speechprune.checkpoint.training_state import refuse_other_types
from speechprune.errors import UserError
from speechprune.state_names import is_mask

#: The types that weights are trained and saved in.
_WEIGHTS = (torch.float32, torch.float16, torch.bfloat16)
_COUNTERS = (torch.int64, torch.int32)


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
        UserError: it is not a fairseq checkpoint, or a part is of another type.
    """
    found = found if isinstance(found, dict) else {}
    weights = found.get("model")
    cfg = plain_sections(found.get("cfg"), path)
    args = plain_namespace(found.get("args"), path)
    if not isinstance(weights, dict) or (cfg is None and args is None):
        raise UserError(
            f"{path} is not a fairseq checkpoint: it has no `model` with its `cfg` or `args`"
        )
    state = {**found, "cfg": cfg, "args": args}
    check_tensors(weights, path)
    refuse_other_types(state, path)
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


def _tensors(weights: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """All by name, those of a teacher within a state dict (``_ema``) too."""
    found = []
    for name, value in weights.items():
        if isinstance(value, dict):
            found += [(f"{name}.{inner}", tensor) for inner, tensor in value.items()]
        else:
            found.append((name, value))
    return found


def check_tensors(weights: Mapping[Any, Any], path: object) -> None:
    """Raise UserError unless weights are tensors by name, of types that models are trained in."""
    for name, tensor in _tensors(weights):
        if not isinstance(name, str):
            raise UserError(f"{path} is damaged: {name!r} cannot be the name of a tensor")
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise UserError(f"{path}: {name} is not a tensor, but {described(tensor)}")
        # A few bytes could stand for any number of equal entries.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{path} is damaged: {name} has more entries than the file holds")
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
