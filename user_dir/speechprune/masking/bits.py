"""Masks at one bit per weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from speechprune.errors import UserError

if TYPE_CHECKING:  # mask files are read, counted and compared without PyTorch, which loads slowly
    import torch

Shape = tuple[int, ...]

# numpy before 2.0 cannot count bits.
_BITS_IN_BYTE = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """Eight mask entries to the byte, the first entry in the lowest bit.

    Args:
        mask: bool, any shape and device.

    Returns:
        uint8 of shape ((numel + 7) // 8,) on the device of ``mask``; the bits left over are 0.
    """
    import torch

    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, not {mask.dtype}")
    flat = mask.detach().cpu().numpy().reshape(-1)
    return torch.from_numpy(np.packbits(flat, bitorder="little")).to(mask.device)


def unpack_bits(packed: torch.Tensor, shape: Iterable[int]) -> torch.Tensor:
    """The bool tensor of shape ``shape`` that `pack_bits` packed, on the device of ``packed``.

    Raises UserError if ``packed`` cannot be the bits of a mask of that shape.
    """
    import torch

    if packed.dtype != torch.uint8:
        raise UserError(f"packed bits are uint8, not {packed.dtype}")
    record = PackedMask(packed.detach().cpu().numpy(), tuple(shape))
    return record.unpack().to(packed.device)


def popcount(packed: np.ndarray) -> int:
    """The number of bits set in a contiguous uint8 array."""
    if not hasattr(np, "bitwise_count"):
        return int(_BITS_IN_BYTE[packed].sum(dtype=np.int64))
    whole = len(packed) // 8 * 8
    words = np.bitwise_count(packed[:whole].view(np.uint64))
    rest = np.bitwise_count(packed[whole:])
    return int(words.sum(dtype=np.int64) + rest.sum(dtype=np.int64))


@dataclass(frozen=True)
class Tally:
    """Kept entries among all entries."""

    kept: int
    total: int

    @property
    def density(self) -> float:
        """The share kept."""
        return self.kept / self.total

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.kept + other.kept, self.total + other.total)


class PackedMask:
    """One mask at one bit per entry; read-only.

    Attributes:
        bits: uint8, ((numel + 7) // 8,), little bit order, unused bits 0.
        shape: the shape of the weight.
        tally: kept and total entries.

    Raises UserError if bits and shape do not belong together.
    """

    def __init__(self, bits: np.ndarray, shape: Shape) -> None:
        if not shape or any(not _is_size(size) for size in shape):
            raise UserError(f"{list(shape)} is not the shape of a mask")
        if bits.dtype != np.uint8 or bits.ndim != 1:
            raise UserError(
                f"packed bits are uint8 in one dimension, not {bits.dtype} {bits.shape}"
            )
        numel = prod(shape)
        if len(bits) != (numel + 7) // 8:
            raise UserError(f"{len(bits)} bytes are not the bits of a mask of shape {list(shape)}")
        if numel % 8 and int(bits[-1]) >> (numel % 8):
            raise UserError(f"bits are set beyond the end of a mask of shape {list(shape)}")
        self.bits = np.array(bits)  # a copy, so that nobody else can write to it
        self.bits.flags.writeable = False
        self.shape = shape
        self.tally = Tally(popcount(self.bits), numel)

    def unpack(self) -> torch.Tensor:
        """A new bool tensor of the mask's shape."""
        import torch

        flat = np.unpackbits(self.bits, count=self.tally.total, bitorder="little")
        return torch.from_numpy(flat.view(np.bool_)).reshape(self.shape)


def _is_size(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size > 0
