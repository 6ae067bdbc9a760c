"""PLACEHOLDER by the lead (slow reference); helper `select` overwrites this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Bracket = Any


@dataclass
class Selection:
    mask: Tensor
    bracket: Any = None


def keep_count(numel: int, density: float) -> int:
    return numel - int((1 - density) * numel)


def select_top_k(importance: Tensor, k: int, bracket: Any = None) -> Selection:
    idx = importance.flatten().float().argsort(descending=True, stable=True)[:k]
    mask = torch.zeros(importance.numel(), dtype=torch.bool, device=importance.device)
    mask[idx] = True
    return Selection(mask.view_as(importance))


def select_each(importances: Any, counts: Any, brackets: Any) -> list[Selection]:
    return [select_top_k(x, k) for x, k in zip(importances, counts)]


def select_top_k_global(importances: Any, k: int, bracket: Any = None) -> Any:
    raise NotImplementedError
