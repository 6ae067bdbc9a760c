"""Small banks without a model behind them, and banks whose headers say something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from speechprune.bank.bank import Bank, add_task, create_bank
from speechprune.bank.header import FORMAT, metadata_of
from speechprune.bank.stored import StoredTensors
from speechprune.bank.task import Task
from speechprune.masking.mask_set import MaskSet

#: Sites of the base, and the site of a task's own head.
SHAPES = {"encoder.layers.0.fc1.weight": (60, 50), "encoder.layers.1.fc1.weight": (50, 61)}
HEAD_SITE, HEAD_KEY, HEAD_SHAPE = "proj.weight", "w2v_encoder.proj.weight", (7, 50)

SETTINGS: dict[str, Any] = {"task": {}, "model": {"_name": "toy"}}


def base(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    tensors = {n: generator.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
    return {
        **tensors,
        "encoder.layer_norm.bias": np.arange(50, dtype=np.float16),
        "encoder.batches": np.array(3),
    }


def random_masks(
    density: float, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES
) -> MaskSet:
    generator = np.random.default_rng(seed)
    found = {n: torch.from_numpy(generator.random(s) < density) for n, s in shapes.items()}
    return MaskSet(found, {"seed": str(seed)})


def flipped(masks: MaskSet, share: float, seed: int) -> MaskSet:
    """Masks that differ from others in about this share of entries."""
    flips = random_masks(share, seed, masks.shapes)
    return MaskSet({site: mask ^ flips[site] for site, mask in masks.items()})


def own(seed: int = 0) -> dict[str, np.ndarray]:
    head = np.random.default_rng(seed).normal(size=HEAD_SHAPE).astype(np.float32)
    return {HEAD_KEY: head, "w2v_encoder.proj.bias": np.zeros(7, dtype=np.float16)}


def task(name: str, masks: MaskSet | None = None, seed: int = 0, **about: Any) -> Task:
    return Task(name, masks or random_masks(0.3, seed), own(seed), about)


def write_bank(path: Path, *tasks: Task) -> Bank:
    create_bank(path, base(), SETTINGS)
    for each in tasks:
        add_task(path, each)
    return Bank(path)


def say(
    path: Path,
    change: Callable[[dict[str, Any]], object],
    tensors: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Let a bank's header say something else, with a checksum that fits, and perhaps of others
    than its tensors."""
    header = json.loads(StoredTensors(path).metadata[FORMAT])
    for key in ("sha256", "format", "version"):
        header.pop(key)
    change(header)
    save_file(load_file(path) if tensors is None else dict(tensors), path, metadata_of(header))


def equal(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays have the same names, types, shapes and bits."""
    return first.keys() == second.keys() and all(
        a.dtype == second[k].dtype
        and a.shape == second[k].shape
        and a.tobytes() == second[k].tobytes()
        for k, a in first.items()
    )
