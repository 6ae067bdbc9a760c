"""The masks that pruning methods are judged against: of magnitudes, and of chance.

Definitions: Lai et al., "PARP", NeurIPS 2021 (arXiv 2106.05933): MPI is the magnitude mask of
pretrained weights, OMP of finetuned ones, RP that of a randomly initialised model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the names of `MAKERS` are wanted without PyTorch
    from torch import Tensor


@dataclass(frozen=True)
class Maker:
    """How a mask is made.

    Attributes:
        own_weights: rank a checkpoint's own weights; else those of a model like it that is
            randomly initialised.
        together: rank all tensors together; else each by itself.
    """

    own_weights: bool
    together: bool


MAKERS: Mapping[str, Maker] = {
    "magnitude": Maker(own_weights=True, together=False),
    "global-magnitude": Maker(own_weights=True, together=True),
    "random": Maker(own_weights=False, together=False),
    "global-random": Maker(own_weights=False, together=True),
}


def largest(weights: Mapping[str, Tensor], sparsity: float, *, together: bool) -> dict[str, Tensor]:
    """The masks of the largest magnitudes.

    Args:
        weights: of one floating dtype, by name.
        sparsity: share removed, of all entries ``together`` or of each tensor.

    Returns:
        bool masks in the shapes of the weights, by name.
    """
    from speechprune.masking.selection import select_each, select_top_k_global

    tensors = list(weights.values())
    sizes = [tensor.numel() for tensor in tensors]
    if together:
        count = count_left(sum(sizes), sparsity)
        masks = select_top_k_global(tensors, count, magnitude=True).masks
    else:
        counts = [count_left(size, sparsity) for size in sizes]
        masks = [found.mask for found in select_each(tensors, counts, magnitude=True)]
    return dict(zip(weights, masks))


def count_left(entries: int, sparsity: float) -> int:
    """How many of ``entries`` are left when a share ``sparsity`` is removed.

    The number removed is rounded as `torch.nn.utils.prune` rounds it, to the nearest, and to the
    even one of two. (S3-Router's share *kept* has an arithmetic of its own, see
    `speechprune.masking.selection.keep_count`.)
    """
    return entries - round(sparsity * entries)
