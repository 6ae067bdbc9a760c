"""Tensors of more dimensions that are matrices: bare parameters, which einsums read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MatrixView:
    """How a tensor is the matrix, (out, in), that policies and initialisations see.

    XLNet's query, for instance, is (C, H, D), of which the heads' H * D channels are the outputs.

    Attributes:
        outputs: dimensions of the tensor that are outputs, in order; all others are inputs.
    """

    outputs: tuple[int, ...]

    def matrix(self, tensor: Tensor) -> Tensor:
        """A tensor, or what broadcasts against it, as a matrix; a view where that is possible."""
        order = self._order(tensor.dim())
        ordered = tensor.permute(order)
        return ordered.flatten(0, len(self.outputs) - 1).flatten(1)

    def tensor(self, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The opposite of `matrix`, contiguous.

        Args:
            matrix: (out or 1, in or 1).
            shape: of the whole tensor.

        Returns:
            In this shape, with 1 for all dimensions of what the matrix has one of.
        """
        order = self._order(len(shape))
        split = len(self.outputs)
        rows = [shape[d] if matrix.shape[0] > 1 else 1 for d in order[:split]]
        columns = [shape[d] if matrix.shape[1] > 1 else 1 for d in order[split:]]
        back = sorted(range(len(order)), key=order.__getitem__)
        return matrix.reshape(*rows, *columns).permute(back).contiguous()

    def _order(self, dimensions: int) -> list[int]:
        """Outputs before inputs."""
        inputs = [d for d in range(dimensions) if d not in self.outputs]
        return [*self.outputs, *inputs]
