"""Scores of units -> which units are kept, in exact numbers.

Pure functions: what is kept depends on the scores and shares alone, so it is the same on every
device and in every process. Scores are few, so that all of it is done on the processor and in
float64. Of equal scores the earlier layer is kept first, and in a layer the lower index; the
reference, Intel Neural Compressor, removes all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.densities import check_sparsity
from speechprune.masking.selection import select_each, select_top_k_global
from speechprune.registry import unknown_name

#: What is ranked together: the units of a layer, those of all layers, or those of all layers with
#: scores that are relative to the mean of their layer.
SCOPES = ("local", "global", "global_normalised")


def removed_count(units: int, share: float) -> int:
    """How many of a layer's ``units`` a share removes: rounded, but at least one unit stays.

    Args:
        share: in [0, 1].
    """
    return max(0, min(round(share * units), units - 1))


def select_units(
    scores: Sequence[Tensor], share: float, scope: str, *, floor: float = 0.0, cap: float = 0.98
) -> list[Tensor]:
    """The units that stay when a share of the smallest scores goes.

    Args:
        scores: of one kind of units, one (N,) per layer, floating point; N may differ.
        share: removed, in [0, 1) and from ``floor`` to ``cap``. In the scope ``local`` each layer
            loses `removed_count`, else all layers together lose round(share * units).
        scope: one of `SCOPES`.
        floor: smallest share that a layer loses, in whole units. While the share of a schedule is
            still below it, pass that share as the floor.
        cap: largest share that a layer may lose, rounded to units; at least one unit stays in any
            case. Where it binds, other layers lose more.

    Returns:
        bool, one (N,) per layer, on the device of its scores; True is kept.

    Raises:
        UserError: a share out of bounds, an unknown scope, or a share that the cap and one unit
            in every layer make impossible.
        FloatingPointError: a score is NaN.
    """
    check_sparsity("the share of units", share)
    check_bounds(floor, cap)
    if not floor <= share <= cap:
        raise UserError(
            f"a share of {share} does not lie between the floor and the cap of each layer, {floor} "
            f"and {cap}; lower the floor, raise the cap, or choose another share"
        )
    if scope not in SCOPES:
        raise UserError(unknown_name("scope", scope, list(SCOPES)))
    if not scores:
        return []
    ranked = [widened(each) for each in scores]
    if scope == "local":
        counts = [each.numel() - removed_count(each.numel(), share) for each in ranked]
        kept = [selection.mask for selection in select_each(ranked, counts)]
    else:
        if scope == "global_normalised":
            ranked = [relative_to_mean(each) for each in ranked]
        kept = _select_together(ranked, share, floor, cap)
    return [mask.to(each.device) for mask, each in zip(kept, scores)]


def check_bounds(floor: float, cap: float) -> None:
    """Raise UserError unless 0 <= floor < 1 and floor <= cap <= 1."""
    check_sparsity("the floor of each layer", floor)
    if not floor <= cap <= 1.0:
        raise UserError(
            f"the cap of each layer must lie between its floor, {floor}, and 1, not at {cap}"
        )


def widened(scores: Tensor) -> Tensor:
    """Scores on the processor in float64, which is exact."""
    return scores.detach().to("cpu", torch.float64)


def kept_bounds(units: int, floor: float, cap: float) -> tuple[int, int]:
    """The smallest and the largest number of a layer's units that may stay under its bounds."""
    # The floor is not rounded up, so that the floors of all layers never ask for more than the same
    # share of all layers together.
    return units - removed_count(units, cap), units - int(floor * units)


def undecided(scores: Tensor, floor: float, cap: float) -> Tensor:
    """The scores, largest first, of the units of a layer that may stay and may go.

    All scores above theirs stay because of the cap, and all below go because of the floor.

    Args:
        scores: (N,), on the processor.
    """
    fewest, most = kept_bounds(scores.numel(), floor, cap)
    return scores.sort(descending=True).values[fewest:most]


def _select_together(
    scores: Sequence[Tensor], share: float, floor: float, cap: float
) -> list[Tensor]:
    """One ranking of the units of all layers, among those that the bounds leave undecided.

    The same as the reference's way, which ranks all units, freezes the layers above the cap at the
    cap, and ranks the units of the others again until no layer is above it.
    """
    units = sum(each.numel() for each in scores)
    goes = round(share * units)
    fewest = [kept_bounds(each.numel(), floor, cap)[0] for each in scores]
    if goes > units - sum(fewest):
        raise UserError(
            f"a share of {share} removes {goes} of {units} units, but no more than "
            f"{units - sum(fewest)} can go with a cap of {cap} and at least one unit left in each "
            f"of {len(scores)} layers; choose a smaller share or raise the cap"
        )
    contested = [undecided(each, floor, cap) for each in scores]
    winners = select_top_k_global(contested, units - sum(fewest) - goes).masks
    counts = [few + int(mask.count_nonzero()) for few, mask in zip(fewest, winners)]
    return [selection.mask for selection in select_each(scores, counts)]


def relative_to_mean(scores: Tensor) -> Tensor:
    """Scores divided by their mean; scores that are all 0 stay so.

    The sum is exactly rounded, because the order of a sum is another on every machine.
    """
    mean = math.fsum(scores.tolist()) / max(1, scores.numel())
    return scores / mean if mean else scores
