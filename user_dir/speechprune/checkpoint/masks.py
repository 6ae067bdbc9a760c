"""The masks in finetuned checkpoints, read without building a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.bits import unpack_bits
from speechprune.state_names import mask_key, scores_key, sibling, site_of


def masks_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks of a finetuned state dict by site, those of rows and columns in the shape of the
    weight; raises UserError if one is damaged."""
    masks = {}
    for key, weight in tensors.items():
        bits = tensors.get(sibling(key, mask_key))
        if bits is None:
            continue
        scores = tensors.get(sibling(key, scores_key), weight)
        try:
            masks[site_of(key)] = unpack_bits(bits, scores.shape).expand(weight.shape)
        except (UserError, RuntimeError) as error:
            raise UserError(f"the mask of {key} is damaged: {error}") from error
    return masks
