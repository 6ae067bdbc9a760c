"""The tensors in a safetensors file where they lie on the disk, read when they are used."""

from __future__ import annotations

import json
import mmap
import os
import weakref
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from speechprune.errors import UserError
from speechprune.masking.bits import Shape

_WEIGHTS: Mapping[str, type] = {"F32": np.float32, "F16": np.float16}
#: Batch norm counts its batches.
_COUNTERS: Mapping[str, type] = {"I64": np.int64, "I32": np.int32}
_TYPES: Mapping[str, type] = {**_WEIGHTS, **_COUNTERS, "U8": np.uint8}


def is_number(dtype: Any, shape: Shape) -> bool:
    """Whether arrays of this numpy type and shape are weights, or a counter."""
    is_counter = dtype in _COUNTERS.values() and not shape
    return dtype in _WEIGHTS.values() or is_counter


class _Place(NamedTuple):
    dtype: type
    shape: Shape
    start: int


class StoredTensors(Mapping[str, np.ndarray]):
    """Read-only arrays by name, float32, float16, uint8 or counters, on pages that the kernel may
    drop.

    They stay what they are, even if another file takes the place of this one.

    Raises UserError if the file cannot be read, is damaged, or holds other types.
    """

    def __init__(self, path: Path) -> None:
        try:
            with open(path, "rb") as file:
                self._file = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._file)
                # The library knows what may be wrong with such a file.
                with safe_open(f"/dev/fd/{file.fileno()}", framework="numpy") as checked:
                    self.metadata: Mapping[str, str] = checked.metadata() or {}
                size = int.from_bytes(file.read(8), "little")
                described = json.loads(file.read(size))
                self._memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (SafetensorError, OSError, TypeError, ValueError, RecursionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"{path}: not a bank, or damaged ({reason})") from error
        described.pop("__metadata__", None)
        self._places = {
            name: self._place(path, name, about, 8 + size) for name, about in described.items()
        }

    @staticmethod
    def _place(path: Path, name: str, about: Mapping[str, Any], first: int) -> _Place:
        if about["dtype"] not in _TYPES:
            raise UserError(f"{path}: not a bank: {name} is {about['dtype']}")
        shape = tuple(about["shape"])
        return _Place(_TYPES[about["dtype"]], shape, first + about["data_offsets"][0])

    def __getitem__(self, name: str) -> np.ndarray:
        dtype, shape, start = self._places[name]
        flat: np.ndarray = np.frombuffer(self._memory, dtype, count=prod(shape), offset=start)
        return flat.reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> Shape:
        """The shape of a tensor, of which nothing is read."""
        return self._places[name].shape

    def nbytes(self, name: str) -> int:
        """The bytes of a tensor, of which nothing is read."""
        dtype, shape, _ = self._places[name]
        return prod(shape) * np.dtype(dtype).itemsize

    def is_number(self, name: str) -> bool:
        """Whether a tensor is of the types of weights, or a counter."""
        dtype, shape, _ = self._places[name]
        return is_number(dtype, shape)

    def is_bytes(self, name: str) -> bool:
        """Whether a tensor is a row of bytes."""
        dtype, shape, _ = self._places[name]
        return dtype is np.uint8 and len(shape) == 1

    def read_into(self, name: str, start: int, values: np.ndarray) -> None:
        """Fill an array with a tensor's entries from the entry ``start`` on: faster than copying
        from pages that have to be mapped first.

        Args:
            values: one-dimensional, contiguous, of the tensor's type.
        """
        dtype, shape, first = self._places[name]
        rest = values.data.cast("B")
        at = first + start * np.dtype(dtype).itemsize
        while rest:
            taken = os.preadv(self._file, [rest], at)
            if not taken:
                raise UserError(f"{name} is cut short: the bank's file was changed while in use")
            rest, at = rest[taken:], at + taken

    def forget_pages(self) -> None:
        """Let go of what was read: it is read again when it is used again."""
        self._memory.madvise(mmap.MADV_DONTNEED)

    def forget_pages_of(self, name: str) -> None:
        """The same, of one tensor and of no page that it shares with others."""
        start = self._places[name].start
        end = start + self.nbytes(name)
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self._memory.madvise(mmap.MADV_DONTNEED, first, length)


class TensorsBelow(Mapping[str, np.ndarray]):
    """The arrays whose names begin in one way, by the rest of their names."""

    def __init__(self, start: str, tensors: StoredTensors) -> None:
        self._start = start
        self._tensors = tensors
        self._names = [name[len(start) :] for name in tensors if name.startswith(start)]

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._start + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> Shape:
        """The shape of an array, of which nothing is read."""
        return self._tensors.shape(self._start + name)

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of all, of which nothing is read."""
        return {name: self.shape(name) for name in self}

    def nbytes(self, name: str) -> int:
        """The bytes of an array, of which nothing is read."""
        return self._tensors.nbytes(self._start + name)

    def read_into(self, name: str, start: int, values: np.ndarray) -> None:
        """As `StoredTensors.read_into`."""
        self._tensors.read_into(self._start + name, start, values)

    def forget_pages_of(self, name: str) -> None:
        """Let go of what was read of an array."""
        self._tensors.forget_pages_of(self._start + name)
