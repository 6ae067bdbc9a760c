"""Importances of several sites -> their masks, each ranked by itself or all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.selection import Bracket, keep_count, select_each, select_top_k_global

_SCOPES = ("site", "global")
_ALL = "all sites together"


class SiteRanking:
    """Selects masks, and remembers where the thresholds lay, which makes the next time faster.

    Args:
        scope: rank within each ``site`` or over all sites (``global``).
        magnitude: rank by the absolute value.

    Raises:
        UserError: an unknown scope.
    """

    def __init__(self, scope: str, magnitude: bool) -> None:
        if scope not in _SCOPES:
            raise UserError(f"scope {scope!r} is not one of {_SCOPES}")
        self.scope = scope
        self.magnitude = magnitude
        self._brackets: dict[str, Bracket | None] = {}

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
            UserError: several densities for one ranking.
            FloatingPointError: an importance is not a number.
        """
        tensors = list(importances.values())
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
        counts = [int(mask.count_nonzero()) for mask in masks]
        if self.scope == "global":
            return self._select_together(list(importances.values()), sum(counts))
        return self._select_each(importances, counts)

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
