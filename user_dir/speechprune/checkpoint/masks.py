"""The masks in finetuned checkpoints, read without building a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.bits import unpack_bits
from speechprune.state_names import is_mask, mask_key, masked_by, scores_key, sibling, site_of


def masks_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks of a finetuned state dict by site, those of rows and columns in the shape of the
    weight; raises UserError if one is damaged."""
    masks = {}
    for key in map(masked_by, filter(is_mask, tensors)):
        # Under weight norm, the direction has the shape of the weight that is masked.
        weight = tensors.get(key, tensors.get(f"{key}_v"))
        if weight is None:
            continue
        bits, scores = tensors[sibling(key, mask_key)], tensors.get(sibling(key, scores_key))
        shape = weight.shape if scores is None else scores.shape
        try:
            masks[site_of(key)] = unpack_bits(bits, shape).expand(weight.shape)
        except (UserError, RuntimeError) as error:
            raise UserError(f"the mask of {key} is damaged: {error}") from error
    return masks
