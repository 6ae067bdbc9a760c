"""SimilarityMatrix: how alike the hidden states of one model are, saved with where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save as safetensors_bytes

from speechprune.checksums import verified, with_checksum
from speechprune.errors import UserError
from speechprune.files import write_atomically

FORMAT = "speechprune.similarity_matrix"
VERSION = 1
_TENSOR = "similarity"

#: What rounding may add.
_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class SimilarityMatrix:
    """The similarity of each two of the L + 1 hidden states of a model.

    State i is the input of layer i, state L the output of the last layer.

    Attributes:
        values: float64 (L + 1, L + 1).
        measure: its name; "" for a bare array.
        floor: what the measure gives for independent data of the same size; None if not known.
        provenance: checkpoint and its digest, data, settings of the measure, versions.

    Raises UserError if the values are not square or not finite; or, of a measure, not symmetric or
    outside of [0, 1], the range of every measure.
    """

    values: NDArray[np.float64]
    measure: str = ""
    floor: Optional[float] = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.dtype.kind not in "fiu":
            raise UserError(f"a similarity matrix is of numbers, not of type {values.dtype}")
        if values.ndim != 2 or len(set(values.shape)) != 1:
            raise UserError(f"a similarity matrix is square, not of shape {values.shape}")
        if len(values) < 2:
            raise UserError("a similarity matrix of one state is of a model without layers")
        if not np.isfinite(values).all():
            raise UserError("the similarity matrix has entries that are not finite")
        if self.measure:
            _check_entries(values, lowest=0.0)
        # In C order: safetensors writes what lies in memory.
        values = values.astype(np.float64, order="C")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @property
    def layers(self) -> int:
        """Depth of the model."""
        return len(self.values) - 1

    def save(self, path: Union[str, Path]) -> None:
        """Write one safetensors file, whole or not at all; equal values give equal bytes.

        Raises:
            UserError: the file cannot be written.
        """
        header = {
            "format": FORMAT,
            "version": VERSION,
            "measure": self.measure,
            "floor": self.floor,
            "provenance": self.provenance,
        }
        tensors = {_TENSOR: self.values}
        sealed = with_checksum(header, tensors)
        metadata = {FORMAT: json.dumps(sealed, ensure_ascii=False, sort_keys=True)}
        write_atomically(path, safetensors_bytes(tensors, metadata))

    @classmethod
    def load(cls, path: Union[str, Path]) -> SimilarityMatrix:
        """Read what `save` wrote, or a bare ``.npy`` array as CoMFLP publishes them.

        Raises:
            UserError: the file cannot be read, differs from its checksum, or holds no such matrix;
                one of no known measure has to be symmetric and within [-1, 1].
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such file of a similarity matrix")
        try:
            with open(path, "rb") as file:
                is_array = file.read(6) == b"\x93NUMPY"
            matrix = cls(np.load(path)) if is_array else cls._load_ours(path)
            if not matrix.measure:
                _check_entries(matrix.values, lowest=-1.0)
            return matrix
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        # The header of a damaged array is parsed as Python, which may fail in any way.
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{path} is not a similarity matrix, neither ours nor a .npy array ({reason})"
            ) from error

    @classmethod
    def _load_ours(cls, path: Path) -> SimilarityMatrix:
        with safe_open(str(path), framework="numpy") as file:
            header = json.loads((file.metadata() or {})[FORMAT])
            values = file.get_tensor(_TENSOR)
        header = verified(header, {_TENSOR: values})
        if header["version"] != VERSION:
            raise UserError(f"version {header['version']}; this program reads {VERSION}")
        if not isinstance(header["provenance"], dict):
            raise UserError("its provenance is no JSON object")
        return cls(values, header["measure"], header["floor"], header["provenance"])


def _check_entries(values: NDArray[Any], lowest: float) -> None:
    """Raise UserError, with the place, for an entry outside of [``lowest``, 1], or unlike the one
    across the diagonal."""
    outside = np.argwhere((values < lowest - _TOLERANCE) | (values > 1 + _TOLERANCE))
    if len(outside):
        row, column = map(int, outside[0])
        raise UserError(
            f"the similarity of states {row} and {column} is {values[row, column]:g}, outside of "
            f"[{lowest:g}, 1]"
        )
    unlike = np.argwhere(~np.isclose(values, values.T, rtol=0, atol=_TOLERANCE))
    if len(unlike):
        row, column = map(int, unlike[0])
        raise UserError(
            f"the similarity of states {row} and {column} is {values[row, column]:g} one way and "
            f"{values[column, row]:g} the other: the matrix is not symmetric"
        )
