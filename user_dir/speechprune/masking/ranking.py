"""Importances of several sites -> their masks, each ranked by itself or all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.selection import (
    Bracket,
    keep_count,
    select_each,
    select_n_of_m,
    select_top_k_global,
)

_SCOPES = ("site", "global")
_ALL = "all sites together"


class SiteRanking:
    """Selects masks, and remembers where the thresholds lay, which makes the next time faster.

    Args:
        scope: rank within each ``site`` or over all sites (``global``).
        magnitude: rank by the absolute value.
        pattern: (n, m) to keep n of every m neighbours in a row, in whichever scope.

    Raises:
        UserError: an unknown scope.
    """

    def __init__(self, scope: str, magnitude: bool, pattern: tuple[int, int] | None = None) -> None:
        if scope not in _SCOPES:
            raise UserError(f"scope {scope!r} is not one of {_SCOPES}")
        self.scope = scope
        self.magnitude = magnitude
        self.pattern = pattern
        self._brackets: dict[str, Bracket | None] = {}

    def check(self, name: str, tensor: Tensor) -> None:
        """Raise UserError if the rows of a site's tensor do not divide into groups of m."""
        row = tensor[0].numel() if tensor.dim() > 1 else tensor.numel()
        if self.pattern is not None and row % self.pattern[1]:
            raise UserError(
                f"{name} has rows of {row} entries, which do not divide into groups "
                f"of {self.pattern[1]}; choose another m, or leave this tensor without a mask"
            )

    def select(
        self,
        importances: Mapping[str, Tensor],
        densities: Sequence[float],
        others: Sequence[Tensor],
    ) -> list[Tensor]:
        """The masks of the sites whose importances are given.

        Args:
            importances: by site name, of one floating dtype in the scope ``global``.
            densities: share kept of each.
            others: masks of the other sites, which stay and count where all are ranked together.

        Raises:
            UserError: several densities for one ranking, or another density than the pattern's.
            FloatingPointError: an importance is not a number.
        """
        tensors = list(importances.values())
        if self.pattern is not None:
            return [self._select_by_pattern(*pair) for pair in zip(tensors, densities)]
        if self.scope == "global":
            return self._select_together(tensors, _left_to_keep(tensors, densities, others))
        counts = [keep_count(tensor.numel(), d) for tensor, d in zip(tensors, densities)]
        return self._select_each(importances, counts)

    def select_as_many(
        self, importances: Mapping[str, Tensor], masks: Sequence[Tensor]
    ) -> list[Tensor]:
        """Masks of all sites that keep as many entries as ``masks`` do.

        Raises:
            FloatingPointError: an importance is not a number.
        """
        if self.pattern is not None:
            n, m = self.pattern
            return [self._select_by_pattern(tensor, n / m) for tensor in importances.values()]
        counts = [int(mask.count_nonzero()) for mask in masks]
        if self.scope == "global":
            return self._select_together(list(importances.values()), sum(counts))
        return self._select_each(importances, counts)

    def _select_by_pattern(self, importance: Tensor, density: float) -> Tensor:
        assert self.pattern is not None
        n, m = self.pattern
        if abs(density - n / m) > 1e-9:
            raise UserError(f"keeping {n} of every {m} is a density of {n / m:g}, not {density:g}")
        return n_of_m(importance.abs() if self.magnitude else importance, n, m)

    def _select_together(self, tensors: Sequence[Tensor], count: int) -> list[Tensor]:
        found = select_top_k_global(
            tensors, count, self._brackets.get(_ALL), magnitude=self.magnitude
        )
        self._brackets[_ALL] = found.bracket
        return found.masks

    def _select_each(
        self, importances: Mapping[str, Tensor], counts: Sequence[int]
    ) -> list[Tensor]:
        names, tensors = list(importances), list(importances.values())
        brackets = [self._brackets.get(name) for name in names]
        selections = select_each(tensors, counts, brackets, magnitude=self.magnitude)
        for name, selection in zip(names, selections):
            self._brackets[name] = selection.bracket
        return [selection.mask for selection in selections]


def n_of_m(importance: Tensor, n: int, m: int) -> Tensor:
    """The mask of the ``n`` largest of every ``m`` neighbours in a row of a weight.

    Args:
        importance: (out, in, ...), where a row is all that makes one output, or a bias, (out,).
    """
    rows = importance.flatten(1) if importance.dim() > 1 else importance
    return select_n_of_m(rows, n, m).view(importance.shape)


def _left_to_keep(
    tensors: Sequence[Tensor], densities: Sequence[float], others: Sequence[Tensor]
) -> int:
    """How many entries of ``tensors`` to keep, when the masks of the others stay."""
    if len(set(densities)) > 1:
        raise UserError("one global ranking needs one density for all sites")
    room = sum(tensor.numel() for tensor in tensors)
    kept = keep_count(room + sum(mask.numel() for mask in others), densities[0])
    kept -= sum(int(mask.count_nonzero()) for mask in others)
    return min(max(kept, 0), room)
