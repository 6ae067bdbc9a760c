"""Masks of positional convolutions as 0.1.0 saved them: of the direction, before weight norm."""

from __future__ import annotations

import logging
from typing import Any

import torch

from speechprune.masking.bits import pack_bits, unpack_bits
from speechprune.state_names import is_of_masks, mask_key, scores_key, sibling

logger = logging.getLogger(__name__)


def masked_after_norm(state: dict[str, Any], weight: str) -> dict[str, Any]:
    """A state dict in which a weight that weight norm makes is masked itself, if it is not yet.

    What the mask removed is written into the direction as zeros, so the network is the same to the
    last bit; but it cannot come back any more.

    Args:
        state: of a finetuned model.
        weight: the key that the weight would have.
    """
    direction = f"{weight}_v"
    bits, scores = (state.get(sibling(direction, name)) for name in (mask_key, scores_key))
    if bits is None or direction not in state:
        return state
    logger.warning(
        f"{weight} was masked before weight norm, by speechprune 0.1.0: what its mask removed "
        "stays removed"
    )
    values = state[direction]
    mask = unpack_bits(bits, values.shape if scores is None else scores.shape).expand(values.shape)
    changed = {k: v for k, v in state.items() if not (k.startswith(direction) and is_of_masks(k))}
    changed[direction] = torch.where(mask, values, 0.0)
    changed[sibling(weight, mask_key)] = pack_bits(mask)
    if scores is not None:
        changed[sibling(weight, scores_key)] = scores.expand(values.shape)
    return changed
