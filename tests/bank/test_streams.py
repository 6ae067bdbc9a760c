"""Masks told by others' are the same masks, in fewer bytes where they are alike."""

from __future__ import annotations

import pytest
from banks import flipped, random_masks
from checkpoints import refusal

from speechprune.bank.streams import decode_masks, encode_masks
from speechprune.masking.mask_set import MaskSet

#: Several streams: sites that fill one alone, small ones together, and sizes that fill no byte.
SHAPES = {
    **{f"encoder.layers.{i}.fc1.weight": (700, 301 * 7) for i in range(2)},
    **{f"encoder.layers.{i}.fc1.bias": (7,) for i in range(2, 5)},
    "proj.weight": (3, 3),
}


@pytest.mark.parametrize("density", [0.03, 0.5, 0.9])
def test_like_masks_take_less_beside_each_other(density: float) -> None:
    first = random_masks(density, 0, SHAPES)
    second = flipped(first, 0.01, 1)
    alone, described = encode_masks(second)
    beside, told = encode_masks(second, first)
    assert len(described) == len(told) == 3 and not any(differs for _, differs in described)
    assert len(beside) < 0.5 * len(alone) and any(differs for _, differs in told)
    assert MaskSet.from_packed(decode_masks(alone, described, second.shapes)) == second
    assert MaskSet.from_packed(decode_masks(beside, told, second.shapes, first)) == second


def test_other_masks_are_told_as_they_are() -> None:
    first, second = random_masks(0.2, 0, SHAPES), random_masks(0.2, 1, SHAPES)
    assert encode_masks(second, first) == encode_masks(second)


def test_streams_that_do_not_belong_to_the_sites_are_refused() -> None:
    masks = random_masks(0.3, 0, SHAPES)
    data, described = encode_masks(masks)
    assert "other sites" in refusal(decode_masks, data, described[1:], masks.shapes)
    assert "another number of bytes" in refusal(decode_masks, data + b"0", described, masks.shapes)
    shorter = [[described[0][0] - 1, False], *described[1:]]
    refusal(decode_masks, data, shorter, masks.shapes)
    other = {**masks.shapes, "proj.weight": (900, 900)}
    refusal(decode_masks, data, described, other)
