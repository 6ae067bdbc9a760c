"""MaskSet: the masks of one model as a validated value, saved at one bit per weight."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from speechprune.checksums import verified, with_checksum
from speechprune.errors import UserError
from speechprune.files import write_atomically
from speechprune.masking.bits import PackedMask, Shape, Tally, pack_bits

if TYPE_CHECKING:  # see speechprune.masking.bits
    import torch

FORMAT = "speechprune.mask_set"
VERSION = 1
#: Where the provenance of masks of an output layer tells what its rows stand for, in order.
SYMBOLS = "symbols"
Key = TypeVar("Key", bound=Hashable)


class MaskSet(Mapping[str, "torch.Tensor"]):
    """The masks of one model, by site name, with where they came from; immutable.

    As a mapping it gives, for each site ("encoder.layers.3.fc1.weight", a key of the backbone's
    state dict), a new bool tensor of the weight's shape: True is kept. Sites are ordered by name,
    numbers by value, so that equal mask sets are equal files. Two mask sets are equal when their
    masks are; provenance does not count.

    Args:
        masks: site name to bool tensor.
        provenance: free text by key: backbone, checkpoint digest, settings, versions.

    Raises UserError if there is no mask, a mask has no entries, or a name is empty.
    """

    def __init__(
        self, masks: Mapping[str, torch.Tensor], provenance: Optional[Mapping[str, str]] = None
    ) -> None:
        packed = {}
        for name, mask in masks.items():
            packed[name] = PackedMask(pack_bits(mask).cpu().numpy(), tuple(mask.shape))
        self._adopt(packed, provenance or {})

    @classmethod
    def from_packed(
        cls, packed: Mapping[str, PackedMask], provenance: Optional[Mapping[str, str]] = None
    ) -> MaskSet:
        """The mask set of masks that are packed already; raises what the constructor raises."""
        new = cls.__new__(cls)
        new._adopt(packed, provenance or {})
        return new

    def _adopt(self, packed: Mapping[str, PackedMask], provenance: Mapping[str, str]) -> None:
        if not packed:
            raise UserError("a mask set needs at least one mask")
        for text in (*packed, *provenance, *provenance.values()):
            if not isinstance(text, str):
                raise TypeError(f"site names and provenance are text, not {text!r}")
        if "" in packed:
            raise UserError("a mask set cannot hold a site without a name")
        self._packed = {name: packed[name] for name in sorted(packed, key=_natural)}
        self._provenance = {key: provenance[key] for key in sorted(provenance)}

    def __getitem__(self, site: str) -> torch.Tensor:
        return self._packed[site].unpack()

    def __contains__(self, site: object) -> bool:
        return site in self._packed  # a mapping's own way would unpack the mask

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskSet):
            return NotImplemented
        return self.shapes == other.shapes and all(
            np.array_equal(mine.bits, other.packed(name).bits)
            for name, mine in self._packed.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"MaskSet({len(self)} sites, {self.tally.total} weights, density {self.density:.4f})"

    def packed(self, site: str) -> PackedMask:
        """The mask of ``site``, packed."""
        return self._packed[site]

    @property
    def provenance(self) -> dict[str, str]:
        """Where the masks came from (a copy)."""
        return dict(self._provenance)

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each site's weight."""
        return {name: mask.shape for name, mask in self._packed.items()}

    @property
    def tally(self) -> Tally:
        """Kept and total weights of all sites."""
        return sum((mask.tally for mask in self._packed.values()), Tally(0, 0))

    @property
    def density(self) -> float:
        """The share kept of all weights that have a mask."""
        return self.tally.density

    @property
    def nbytes(self) -> int:
        """Bytes of all packed masks."""
        return sum(len(mask.bits) for mask in self._packed.values())

    def tallies(self, key: Callable[[str], Key]) -> dict[Key, Tally]:
        """Kept and total weights of the groups that ``key`` makes of site names.

        ``tallies(str)`` is per site, ``tallies(layer_of)`` per layer and ``tallies(role_of)`` per
        role.
        """
        groups: dict[Key, Tally] = {}
        for name, mask in self._packed.items():
            groups[key(name)] = groups.get(key(name), Tally(0, 0)) + mask.tally
        return groups

    def check_fits(self, shapes: Union[Mapping[str, Shape], Iterable[tuple[str, Shape]]]) -> None:
        """Raise UserError, naming the first site that differs, unless the sites are ``shapes``."""
        expected = {name: tuple(shape) for name, shape in dict(shapes).items()}
        for name, shape in expected.items():
            if name not in self._packed:
                raise UserError(f"masks of another model: they have no site {name!r}")
            if self._packed[name].shape != shape:
                found = list(self._packed[name].shape)
                raise UserError(
                    f"masks of another model: {name!r} has the shape {found}, not {list(shape)}"
                )
        for name in self._packed:
            if name not in expected:
                raise UserError(f"masks of another model: the model has no site {name!r} to mask")

    def save(self, path: Union[str, Path]) -> None:
        """Write one safetensors file: bits as tensors; shapes and provenance in its metadata.

        The write is atomic, and equal mask sets with equal provenance give equal bytes. Raises
        UserError if the file cannot be written.
        """
        header = {
            "format": FORMAT,
            "version": VERSION,
            "shapes": {name: list(mask.shape) for name, mask in self._packed.items()},
            "provenance": self._provenance,
        }
        # safetensors writes metadata in hash order: a single key keeps the bytes the same.
        tensors = {name: mask.bits for name, mask in self._packed.items()}
        metadata = {FORMAT: json.dumps(with_checksum(header, tensors), ensure_ascii=False)}
        write_atomically(path, safetensors_bytes(tensors, metadata))

    @classmethod
    def load(cls, path: Union[str, Path]) -> MaskSet:
        """Read and validate what `save` wrote; raises UserError for any other file."""
        if not Path(path).is_file():
            raise UserError(f"{path}: no such mask file")
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = _read_header(path, file.metadata())
                bits = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: not a mask file, or damaged ({reason})") from error
        if sorted(bits) != sorted(header["shapes"]):
            raise UserError(f"{path}: damaged mask file: its shapes and tensors name other sites")
        try:
            verified(header, bits)
            packed = {n: PackedMask(bits[n], tuple(s)) for n, s in header["shapes"].items()}
            return cls.from_packed(packed, header["provenance"])
        except UserError as error:
            raise UserError(f"{path}: damaged mask file: {error}") from error


def is_mask_file(path: Union[str, Path]) -> bool:
    """Whether the file starts as safetensors do: eight bytes of length, then JSON."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _read_header(path: Union[str, Path], metadata: Optional[Mapping[str, str]]) -> dict[str, Any]:
    try:
        header = dict(json.loads((metadata or {})[FORMAT]))
        version = header["version"]
        shapes, provenance = dict(header["shapes"]), dict(header["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a safetensors file, but not one of masks") from error
    if version != VERSION:
        raise UserError(f"{path}: mask file of version {version}; this program reads {VERSION}")
    texts = all(isinstance(text, str) for text in provenance.values())
    if not texts or not all(isinstance(shape, list) for shape in shapes.values()):
        raise UserError(f"{path}: damaged mask file: its header is not the one of a mask file")
    return header


def _natural(name: str) -> tuple[list[tuple[int, Union[int, str]]], str]:
    """Sort key with numbers by value: layer 2 before layer 10."""
    parts: list[tuple[int, Union[int, str]]] = []
    for part in re.split(r"(\d+)", name):
        parts.append((0, int(part)) if part.isdigit() else (1, part))
    return parts, name
