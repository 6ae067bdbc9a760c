"""Span masking that a seed repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from speechprune.replacing import Function


def seeded(draw: Function) -> Function:
    """Draws SpecAugment's spans from numpy's global state.

    fairseq draws them from the operating system, so no seed makes a run repeatable. Our models seed
    numpy's global state per update, rank and micro-batch.

    Args:
        draw: fairseq's `compute_mask_indices`, as a model's module has it.
    """

    def draw_seeded(shape: tuple[int, int], *args: Any, **options: Any) -> np.ndarray:
        if options.get("seed") is None:
            options["seed"] = int(np.random.randint(2**31))
            options["epoch"] = 0
            options["indices"] = torch.arange(shape[0])
        spans: np.ndarray = draw(shape, *args, **options)
        return spans

    return draw_seeded
