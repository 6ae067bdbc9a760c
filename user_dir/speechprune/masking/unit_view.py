"""Weights seen as the units that live in them, so that one score can decide on a whole unit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from speechprune.errors import UserError


@dataclass(frozen=True)
class UnitView:
    """How units lie in one weight, (out, in): N units, each of D neighbouring rows or columns.

    Attributes:
        group: what is equal for all weights that the same units live in.
        axis: 0 if a unit has rows of the weight, 1 if columns.
        count: N.
        size: D.
    """

    group: str
    axis: int
    count: int
    size: int

    def rows(self, weight: Tensor) -> Tensor:
        """``weight`` with a row for all that one unit has in it, (N, entries)."""
        by_unit = weight if self.axis == 0 else weight.t()
        return by_unit.reshape(self.count, -1)

    def spread(self, of_units: Tensor) -> Tensor:
        """Values of units, (N, 1), in a new tensor that broadcasts against the weight: (N * D, 1)
        for rows, (1, N * D) for columns."""
        repeated = of_units.reshape(self.count).repeat_interleave(self.size)
        return repeated.unsqueeze(1 - self.axis)

    def collect(self, spread: Tensor) -> Tensor:
        """The values of units, (N, 1), that `spread` spread; raises UserError if one unit has
        several."""
        values = spread.reshape(self.count, self.size)
        of_units = values[:, :1]
        if not bool((values == of_units).all()):
            raise UserError("rows or columns of one unit differ")
        return of_units
