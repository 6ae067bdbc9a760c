"""Weights and gradients -> one score per head and per channel.

Source: the definitions of Intel Neural Compressor 3.7.1. A score is a mean of entries, and momentum
comes after it: S <- decay * S + mean.

Weights and gradients of a large model take long to read, and all else here next to nothing: on a
processor they are read once, in blocks of rows that stay in its cache until they are summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from speechprune.slimming.criteria import Criterion

#: Entries of a block: 256 KiB in float32.
_BLOCK = 2**16


@torch.no_grad()
def channel_scores(criterion: Criterion, weight: Tensor, gradient: Tensor | None) -> Tensor:
    """The score of each feed-forward channel: the mean over its column.

    Args:
        weight: of the second linear layer of the feed-forward block, (C, F), floating point.
        gradient: in the shape of the weight; None only for a criterion that needs none.

    Returns:
        (F,), float32, on the device of the weight.
    """
    return _means_of_columns(criterion, weight, gradient)


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
    *projections, out = zip(weights, gradients or [None] * 4)
    total = _means_of_columns(criterion, *out).unflatten(0, (heads, -1)).mean(1)
    for projection in projections:
        total += _means_of_rows(criterion, *projection).unflatten(0, (heads, -1)).mean(1)
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


def _means_of_rows(criterion: Criterion, weight: Tensor, gradient: Tensor | None) -> Tensor:
    return torch.cat([entries.mean(1) for entries in _blocks(criterion, weight, gradient)])


def _means_of_columns(criterion: Criterion, weight: Tensor, gradient: Tensor | None) -> Tensor:
    blocks = _blocks(criterion, weight, gradient)
    total = next(blocks)
    for entries in blocks:
        total[: len(entries)] += entries
    return total.sum(0) / len(weight)


def _blocks(criterion: Criterion, weight: Tensor, gradient: Tensor | None) -> Iterator[Tensor]:
    """The entries of some rows after the other: new tensors, the last of which may be shorter."""
    # A GPU takes longer to start on a block than to read it.
    rows = max(1, _BLOCK // weight.shape[1]) if weight.device.type == "cpu" else len(weight)
    for start in range(0, len(weight), rows):
        own = slice(start, start + rows)
        yield criterion.entries(weight[own], None if gradient is None else gradient[own])
