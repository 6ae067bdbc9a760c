"""Statistics of gradients: from the micro-batches of one update to the sums that policies rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from speechprune.masking.masked_weight import MaskedWeight


def add_observations(sites: Sequence[MaskedWeight]) -> None:
    """Add what is pending of an update to the statistics of all sites, on every process alike.

    Each update counts alike: the absolute values are divided by their mean over all sites, which
    takes the loss scale of half precision and the size of batches out of them. (SNIP, equation 4,
    divides by the sum.)

    Raises:
        FloatingPointError: an observation is not a finite number.
    """
    pending = [_of_all_processes(masked) for masked in sites]
    sizes = torch.stack([values.sum(dtype=torch.float64) for values in pending])
    mean = float(sizes.sum()) / sum(values.numel() for values in pending)
    if not mean < float("inf"):
        raise FloatingPointError("cannot rank connections: a gradient is not a finite number")
    for masked, values in zip(sites, pending):
        assert masked.observed is not None
        if mean > 0.0:
            masked.observed.add_(values, alpha=1.0 / mean)
        masked.pending = None


def _of_all_processes(masked: MaskedWeight) -> Tensor:
    """The absolute values of what is pending, summed over processes; zeros if nothing is."""
    assert masked.observed is not None
    pending = masked.pending
    if pending is None:  # the layer was dropped in this update
        pending = torch.zeros_like(masked.observed)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(pending)
    return pending.abs_()
