"""The masks of one task as coded streams: several sites to a stream, each as it is or as what
differs from another task's masks.

Beside one language's masks, another's are their exclusive or, which is sparser the more alike they
are, and so takes fewer bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from speechprune.bank.coding import decode, encode
from speechprune.errors import UserError
from speechprune.masking.bits import PackedMask, Shape
from speechprune.masking.mask_set import MaskSet

#: Sites go into one stream until it has this many bytes of packed bits: each stream has a table of
#: codes of its own, which small ones hardly pay for.
_SMALLEST = 1 << 17


def encode_masks(masks: MaskSet, beside: MaskSet | None = None) -> tuple[bytes, list[Any]]:
    """Coded masks, one stream after the other.

    Args:
        beside: masks of other tasks may be coded by what differs from these, where that is shorter;
            None, or of the same sites.

    Returns:
        The bytes, and for each stream how many they are and whether they are such a difference.
    """
    streams, described = [], []
    for names in _grouped(masks.shapes):
        own = _joined(masks, names)
        coded, differs = encode(own, 8 * len(own)), False
        if beside is not None:
            difference = encode(own ^ _joined(beside, names), 8 * len(own))
            if len(difference) < len(coded):
                coded, differs = difference, True
        streams.append(coded)
        described.append([len(coded), differs])
    return b"".join(streams), described


def decode_masks(
    data: bytes,
    described: list[Any],
    shapes: Mapping[str, Shape],
    beside: MaskSet | None = None,
) -> dict[str, PackedMask]:
    """The masks that `encode_masks` was given.

    Args:
        shapes: of the sites, in order.

    Raises:
        UserError: these are not the masks of such sites.
    """
    found: dict[str, PackedMask] = {}
    groups = list(_grouped(shapes))
    if len(groups) != len(described):
        raise UserError("its masks are of other sites than it says")
    start = 0
    for names, (length, differs) in zip(groups, described):
        sizes = [_bytes_of(shapes[name]) for name in names]
        bits = decode(data[start : start + length], 8 * sum(sizes))
        start += length
        if differs:
            assert beside is not None
            bits = bits ^ _joined(beside, names)
        for name, part in zip(names, np.split(bits, np.cumsum(sizes)[:-1])):
            found[name] = PackedMask(part, shapes[name])
    if start != len(data):
        raise UserError("its masks have more bytes than its sites take")
    return found


def _grouped(shapes: Mapping[str, Shape]) -> Iterator[list[str]]:
    """The sites of each stream, in order."""
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        names.append(name)
        size += _bytes_of(shape)
        if size >= _SMALLEST:
            yield names
            names, size = [], 0
    if names:
        yield names


def _joined(masks: MaskSet, names: list[str]) -> np.ndarray:
    return np.concatenate([masks.packed(name).bits for name in names])


def _bytes_of(shape: Shape) -> int:
    return (int(np.prod(shape, dtype=np.int64)) + 7) // 8
