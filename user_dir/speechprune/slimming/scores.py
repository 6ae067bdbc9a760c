"""Weights and gradients -> one score per head and per channel.

Source: the definitions of Intel Neural Compressor 3.7.1. A score is a mean of entries, and momentum
comes after it: S <- decay * S + mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechprune.slimming.criteria import Criterion


@torch.no_grad()
def channel_scores(criterion: Criterion, weight: Tensor, gradient: Tensor | None) -> Tensor:
    """The score of each feed-forward channel: the mean over its column.

    Args:
        weight: of the second linear layer of the feed-forward block, (C, F), floating point.
        gradient: in the shape of the weight; None only for a criterion that needs none.

    Returns:
        (F,), float32, on the device of the weight.
    """
    return criterion.entries(weight, gradient).mean(0)


@torch.no_grad()
def head_scores(
    criterion: Criterion,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor | None] | None,
    heads: int,
) -> Tensor:
    """The score of each attention head: the mean of its means in the four weights.

    Biases take no part.

    Args:
        weights: query, key and value, (H * D, C), where head h owns D rows, and out, (C, H * D),
            where it owns D columns; floating point.
        gradients: in the same order and shapes; None only for a criterion that needs none.
        heads: H.

    Returns:
        (H,), float32, on the device of the weights.
    """
    query, key, value, out = zip(weights, gradients or [None] * 4)
    total = _means_of_rows(criterion, *query, heads)
    total += _means_of_rows(criterion, *key, heads)
    total += _means_of_rows(criterion, *value, heads)
    total += _means_of_columns(criterion, *out, heads)
    return total / 4


@torch.no_grad()
def accumulate(criterion: Criterion, before: Tensor, now: Tensor) -> Tensor:
    """The scores after one more update: decay * before + now.

    A layer that was dropped in this update has no gradient, so that all of ``now`` is 0: its scores
    stay as they were. This is decided on the device, which is not waited for.

    Args:
        before: (N,), float32; zeros at first.
        now: the scores of this update alone, (N,), float32.
    """
    after = now.add(before, alpha=criterion.decay)
    return torch.where(now.any(), after, before) if criterion.needs_gradient else after


def _means_of_rows(
    criterion: Criterion, weight: Tensor, gradient: Tensor | None, heads: int
) -> Tensor:
    return criterion.entries(weight, gradient).unflatten(0, (heads, -1)).mean((1, 2))


def _means_of_columns(
    criterion: Criterion, weight: Tensor, gradient: Tensor | None, heads: int
) -> Tensor:
    return criterion.entries(weight, gradient).unflatten(1, (heads, -1)).mean((0, 2))
