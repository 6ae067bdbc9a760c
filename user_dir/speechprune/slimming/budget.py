"""Which heads and channels to keep within a budget of parameters or multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.slimming.selection import check_bounds, widened, within_bounds


@dataclass(frozen=True)
class Group:
    """The units of one kind in one layer.

    Attributes:
        kind: such as ``heads``.
        layer: 0-based.
        scores: (N,), floating point, not negative.
        cost: of one unit, in whole parameters or multiply-adds, at least 1.
        floor: smallest share of its units that is removed, in [0, 1).
        cap: largest share of its units that may be removed, at most 1; one unit stays in any case.

    Raises:
        UserError: a floor or cap out of bounds.
    """

    kind: str
    layer: int
    scores: Tensor
    cost: int
    floor: float = 0.0
    cap: float = 0.98

    def __post_init__(self) -> None:
        check_bounds(self.floor, self.cap)
        if self.cost < 1:
            raise ValueError(f"{self.kind} of layer {self.layer} cost {self.cost}, not 1 or more")


def smallest_budget(groups: Sequence[Group]) -> int:
    """What is left to pay when every group loses as much as its cap allows."""
    return sum(group.cost * int(_bounds(group)[0].count_nonzero()) for group in groups)


def select_within(groups: Sequence[Group], budget: int) -> list[Tensor]:
    """The units that stay when those of the smallest score for their cost go.

    All units of all groups are ranked together by score / cost, and the smallest are removed until
    the cost of the others is within the budget. As the last unit removed may have been larger than
    what was missing, removed units are then put back, the largest score / cost first, wherever one
    still fits. So none of the removed units fits in the end, but for those that a floor demands.
    Of equal score / cost the earlier group is kept first, and in a group the lower index.

    Args:
        groups: in the order of the masks.
        budget: largest cost of all kept units together.

    Returns:
        bool, one (N,) per group, on the device of its scores; True is kept.

    Raises:
        UserError: the budget is below `smallest_budget`.
        FloatingPointError: a score is NaN.
    """
    bounds = [_bounds(group) for group in groups]
    kept = [safe.clone() for safe, _ in bounds]
    left = budget - sum(group.cost * int(safe.count_nonzero()) for group, safe in zip(groups, kept))
    if left < 0:
        raise UserError(
            f"a budget of {budget} cannot be met: with the caps, and at least one unit of every "
            f"kind in every layer, the smallest possible one is {budget - left}; raise the budget "
            "or the caps"
        )
    # Removing up from the smallest and then putting back is the same as taking units from the
    # largest down, and passing over those that no longer fit.
    for index, unit in _by_worth(groups, [possible & ~safe for safe, possible in bounds]):
        if groups[index].cost <= left:
            kept[index][unit] = True
            left -= groups[index].cost
    return [mask.to(group.scores.device) for mask, group in zip(kept, groups)]


def _bounds(group: Group) -> tuple[Tensor, Tensor]:
    return within_bounds(widened(group.scores), group.floor, group.cap)


def _by_worth(groups: Sequence[Group], masks: Sequence[Tensor]) -> list[tuple[int, int]]:
    """The group and index of each unit of the masks, the largest score / cost first."""
    places = [
        (index, unit)
        for index, mask in enumerate(masks)
        for unit in mask.nonzero().flatten().tolist()
    ]
    if not places:
        return []
    worth = torch.cat(
        [widened(group.scores)[mask] / group.cost for group, mask in zip(groups, masks)]
    )
    return [places[i] for i in worth.argsort(descending=True, stable=True).tolist()]
