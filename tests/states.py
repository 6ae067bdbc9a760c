"""Reading masks out of checkpoints, computed here anew, and comparing checkpoints bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from loop import Run
from torch import Tensor


def masks(model: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The masks in a state dict by weight, unpacked here from their bits: bool, (entries,)."""
    found = {}
    for key, bits in model.items():
        if key.endswith("_mask"):
            name = key[: -len("_mask")]
            scores = model[name[: -len("weight")] + "scores"]
            flat = np.unpackbits(bits.numpy(), count=scores.numel(), bitorder="little")
            found[name] = flat.astype(bool)
    return found


def keep(entries: int, density: float) -> int:
    """How many entries the method keeps."""
    return entries - int((1 - density) * entries)


def top(importance: Tensor, kept: int) -> np.ndarray:
    """The mask of the ``kept`` largest values, the earlier first among equals: bool, (entries,)."""
    values = importance.detach().abs().float().numpy().reshape(-1)
    mask = np.zeros(values.size, dtype=bool)
    mask[np.lexsort((np.arange(values.size), -values))[:kept]] = True
    return mask


def difference(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two nested values differ; tensors must agree in dtype and in every bit."""
    if type(first) is not type(second):
        return [f"{path}: {type(first).__name__} and {type(second).__name__}"]
    if isinstance(first, Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [f"{path}: tensors differ"]
    if isinstance(first, dict):
        if list(first) != list(second):
            return [f"{path}: keys {sorted(set(first) ^ set(second), key=str)} or their order"]
        return [d for key in first for d in difference(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{path}: {len(first)} and {len(second)} items"]
        pairs = enumerate(zip(first, second))
        return [d for i, (a, b) in pairs for d in difference(a, b, f"{path}[{i}]")]
    return [] if first == second else [f"{path}: {first!r} and {second!r}"]


def assert_ends_equal(run: Run, other: Run, updates: int) -> None:
    """Weights, all that masks add to them, moments, fp32 copies, learning rate and place in the
    data are equal, after ``updates``."""
    first, second = run.checkpoint(), other.checkpoint()
    assert difference(first["model"], second["model"]) == []
    assert difference(first["last_optimizer_state"], second["last_optimizer_state"]) == []
    assert first["extra_state"]["train_iterator"] == second["extra_state"]["train_iterator"]
    assert {c["optimizer_history"][-1]["num_updates"] for c in (first, second)} == {updates}
