"""Which heads and channels to keep within a budget of parameters or multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.selection import select_each
from speechprune.slimming.selection import (
    check_bounds,
    kept_bounds,
    relative_to_mean,
    undecided,
    widened,
)

#: Of a product of a share and a cost, relative to it.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Group:
    """The units of one kind in one layer.

    Attributes:
        kind: such as ``heads``.
        layer: 0-based.
        scores: (N,), floating point, not negative.
        cost: of one unit, in whole parameters or multiply-adds, at least 1.
        size: parameters of one unit, for which its score is a mean; 1 for scores of whole units. A
            head is not worth less than a channel for being larger.
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
    size: int = 1

    def __post_init__(self) -> None:
        check_bounds(self.floor, self.cap)
        if self.cost < 1:
            raise ValueError(f"{self.kind} of layer {self.layer} cost {self.cost}, not 1 or more")


def smallest_budget(groups: Sequence[Group]) -> int:
    """The cost of what stays when every group loses as much as its cap allows."""
    return sum(group.cost * _kept_bounds(group)[0] for group in groups)


def select_within(groups: Sequence[Group], budget: int) -> list[Tensor]:
    """The units that stay when those of the smallest worth for their cost go.

    All units of all groups are ranked together by size * score / cost, and the smallest are removed
    until the cost of the others is within the budget. As the last unit removed may have been larger
    than what was missing, removed units are then put back, the largest for its cost first, wherever
    one still fits. So none of the removed units fits in the end, but for those that a floor
    demands. Of equal ones the earlier group is kept first, and in a group the lower index.

    Args:
        groups: in the order of the masks.
        budget: largest cost of all kept units together.

    Returns:
        bool, one (N,) per group, on the device of its scores; True is kept.

    Raises:
        UserError: the budget is below `smallest_budget`.
        FloatingPointError: a score is NaN.
    """
    left = budget - smallest_budget(groups)
    if left < 0:
        raise UserError(
            f"a budget of {budget} cannot be met: with the caps, and at least one unit of every "
            f"kind in every layer, the smallest possible one is {budget - left}; raise the budget "
            "or the caps"
        )
    if not groups:
        return []
    counts = [_kept_bounds(group)[0] for group in groups]
    # Removing up from the smallest and then putting back is the same as taking units from the
    # largest down, and passing over those that no longer fit.
    for index in _groups_by_worth(groups):
        if groups[index].cost <= left:
            counts[index] += 1
            left -= groups[index].cost
    selections = select_each([widened(group.scores) for group in groups], counts)
    return [each.mask.to(group.scores.device) for each, group in zip(selections, groups)]


def select_share(
    groups: Sequence[Group], total: int, share: float, measure: str, *, normalised: bool
) -> list[Tensor]:
    """As `select_within`, so that a whole model costs no more than a share of what it did.

    Args:
        total: cost of the whole model, its parts without units included.
        share: kept, in (0, 1].
        measure: what costs are: ``parameters`` or ``multiply_adds``.
        normalised: rank by scores relative to the mean of their group.

    Raises:
        UserError: with the caps, and at least one unit of every kind in every layer, more is kept.
        FloatingPointError: a score is NaN.
    """
    fixed = total - sum(group.cost * group.scores.numel() for group in groups)
    # A share such as 0.7 is not exact in binary, which must not cost one parameter.
    allowed = math.floor(share * total * (1.0 + _ROUNDING)) - fixed
    least = smallest_budget(groups)
    if allowed < least:
        counted, cap = measure.replace("_", "-"), max(group.cap for group in groups)
        raise UserError(
            f"to keep {share:.4g} of the {counted} is impossible: with at least one head and one "
            f"channel in each layer, and no layer losing more than {cap:g} of either, "
            f"{(fixed + least) / total:.4f} are kept at least; keep more, or, in training, raise "
            "model.slim_cap"
        )
    ranked = groups
    if normalised:
        ranked = [replace(each, scores=relative_to_mean(widened(each.scores))) for each in groups]
    masks = select_within(ranked, allowed)
    return [mask.to(group.scores.device) for mask, group in zip(masks, groups)]


def _kept_bounds(group: Group) -> tuple[int, int]:
    return kept_bounds(group.scores.numel(), group.floor, group.cap)


def _groups_by_worth(groups: Sequence[Group]) -> list[int]:
    """The group of each unit that the bounds leave undecided, the most worth its cost first."""
    scores = [undecided(widened(group.scores), group.floor, group.cap) for group in groups]
    worth = torch.cat([each * group.size / group.cost for each, group in zip(scores, groups)])
    owners = torch.arange(len(groups)).repeat_interleave(
        torch.tensor([each.numel() for each in scores])
    )
    return list(owners[worth.argsort(descending=True, stable=True)].tolist())
