"""The masks of one task as coded streams: several sites to a stream, each as it is or as what
differs from another task's masks.

Beside one language's masks, another's are their exclusive or, which is sparser the more alike they
are, and so takes fewer bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import numpy as np

from speechprune.bank.coding import decode, encode
from speechprune.errors import UserError
from speechprune.masking.bits import PackedMask, Shape
from speechprune.masking.mask_set import MaskSet

#: Sites go into one stream until it has this many bytes of packed bits: each stream has a table of
#: codes of its own, which small ones hardly pay for.
_SMALLEST = 1 << 17
#: Streams that are decoded at a time: each takes several times its bytes meanwhile.
_AT_ONCE = 2


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
    groups = list(_grouped(shapes))
    if len(groups) != len(described):
        raise UserError("its masks are of other sites than it says")
    ends = list(accumulate(length for length, _ in described))
    if ends[-1:] != [len(data)]:
        raise UserError("its masks have another number of bytes than its sites take")

    def decoded(names: list[str], end: int, length: int, differs: bool) -> list[PackedMask]:
        sizes = [_bytes_of(shapes[name]) for name in names]
        bits = decode(data[end - length : end], 8 * sum(sizes))
        if differs:
            assert beside is not None
            bits = bits ^ _joined(beside, names)
        parts = np.split(bits, np.cumsum(sizes)[:-1])
        return [PackedMask(part, shapes[name]) for name, part in zip(names, parts)]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        streams = pool.map(decoded, groups, ends, *zip(*described))
        return {
            name: mask for names, masks in zip(groups, streams) for name, mask in zip(names, masks)
        }


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
