"""Bytes that a task adds beside the pretrained model that all tasks share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from speechprune.bank.coding import encode
from speechprune.checkpoint.masks import masks_in
from speechprune.masking.bits import pack_bits
from speechprune.recipes.adapting import added_or_changed

#: As banks keep the weights that tasks share: in half precision.
_OF_A_VALUE = 2


def own_bytes(finetuned: Mapping[str, Tensor], pretrained: Mapping[str, Tensor]) -> int:
    """Two bytes for each value that training changed or added, and masks as banks code them.

    Args:
        finetuned: a state dict of a CTC model.
        pretrained: that of the encoder, as the run began.
    """
    values = sum(finetuned[key].numel() for key in added_or_changed(finetuned, pretrained))
    return _OF_A_VALUE * values + _bytes_of(masks_in(finetuned))


def _bytes_of(masks: Mapping[str, Tensor]) -> int:
    """Masks that keep everything are not kept."""
    removing = [mask for mask in masks.values() if not mask.all()]
    return sum(len(encode(pack_bits(mask).numpy(), mask.numel())) for mask in removing)
