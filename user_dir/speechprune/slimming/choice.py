"""Scores of a model's heads and channels -> what each layer keeps, by shares or within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.densities import check_density, check_sparsity
from speechprune.masking.selection import select_each
from speechprune.registry import unknown_name
from speechprune.slimming.budget import Group, select_share
from speechprune.slimming.cost import Cost, unit_costs
from speechprune.slimming.plan import KeptUnits
from speechprune.slimming.selection import SCOPES, select_units, widened
from speechprune.slimming.units import LayerUnits, check_multiple, numbers_of, rounded_up


@dataclass(frozen=True)
class LayerScores:
    """How important the units of one layer are.

    Attributes:
        heads: (H,), floating point, not negative.
        channels: (F,), likewise.
    """

    heads: Tensor
    channels: Tensor


@dataclass(frozen=True)
class ShareChoice:
    """How much to remove, as shares of the units.

    Attributes:
        heads, channels: removed, in [0, 1).
        scope: what is ranked together, one of `SCOPES`.
        multiple_of: what the number of channels that a layer keeps is rounded up to, as far as it
            has them; the most important of those that would go stay.

    Raises UserError if a value is out of bounds, or no share is above 0.
    """

    heads: float
    channels: float
    scope: str = "local"
    multiple_of: int = 1

    def __post_init__(self) -> None:
        check_sparsity("the share of heads", self.heads)
        check_sparsity("the share of channels", self.channels)
        if not self.heads and not self.channels:
            raise UserError(
                "nothing is to be removed: the shares of heads and of channels are both 0"
            )
        if self.scope not in SCOPES:
            raise UserError(unknown_name("scope", self.scope, list(SCOPES)))
        check_multiple(self.multiple_of)

    def choose(self, scores: Sequence[LayerScores]) -> list[KeptUnits]:
        """What each layer keeps.

        Raises:
            UserError: as `speechprune.slimming.selection.select_units`.
        """
        heads, channels = (
            select_units(values, share, self.scope, cap=1.0)  # one of each layer stays in any case
            for values, share in (
                ([layer.heads for layer in scores], self.heads),
                ([layer.channels for layer in scores], self.channels),
            )
        )
        return [
            KeptUnits(numbers_of(of_heads), _rounded_up(of_channels, layer, self.multiple_of))
            for of_heads, of_channels, layer in zip(heads, channels, scores)
        ]


@dataclass(frozen=True)
class BudgetChoice:
    """How much of a whole encoder may stay, its parts without units included.

    Heads and channels of all layers are ranked together by their worth for their cost; see
    `speechprune.slimming.budget.Group`.

    Attributes:
        share: of the encoder's cost, in (0, 1].
        normalised: whether scores are relative to the mean of their kind and layer.
        multiple_of: what the number of channels that a layer keeps is rounded down to; fewer stay
            as they are.
        measure: what the cost is: ``parameters`` or ``multiply_adds``.

    Raises UserError if a value is out of bounds.
    """

    share: float
    normalised: bool = False
    multiple_of: int = 1
    measure: str = "parameters"

    def __post_init__(self) -> None:
        check_density("the budget", self.share)
        check_multiple(self.multiple_of)

    def choose(
        self,
        scores: Sequence[LayerScores],
        units: Sequence[LayerUnits],
        whole: Cost,
        frames: int,
    ) -> list[KeptUnits]:
        """What each layer keeps.

        Args:
            units: of the layers that ``scores`` are of.
            whole: what the whole encoder costs.
            frames: that multiply-adds are counted for.

        Raises:
            UserError: the budget is too small for one head and one channel in each layer, or for
                the caps of `Group`.
        """
        costs = unit_costs(units, frames)
        groups = []
        for layer, found in zip(units, scores):
            for kind, values in (("heads", found.heads), ("channels", found.channels)):
                cost = costs[kind, layer.layer]
                size = cost.parameters
                groups.append(Group(kind, layer.layer, values, cost.of(self.measure), size=size))
        masks = select_share(
            groups, whole.of(self.measure), self.share, self.measure, normalised=self.normalised
        )
        return [
            KeptUnits(numbers_of(heads), _rounded_down(channels, layer, self.multiple_of))
            for heads, channels, layer in zip(masks[::2], masks[1::2], scores)
        ]


def _rounded_up(mask: Tensor, layer: LayerScores, multiple_of: int) -> tuple[int, ...]:
    kept = int(mask.count_nonzero())
    return _largest(mask, layer, rounded_up(kept, multiple_of, mask.numel()))


def _rounded_down(mask: Tensor, layer: LayerScores, multiple_of: int) -> tuple[int, ...]:
    kept = int(mask.count_nonzero())
    return _largest(mask, layer, kept // multiple_of * multiple_of or kept)


def _largest(mask: Tensor, layer: LayerScores, count: int) -> tuple[int, ...]:
    """The ``count`` most important channels, of which ``mask`` keeps some in the same order."""
    if count == int(mask.count_nonzero()):
        return numbers_of(mask)
    return numbers_of(select_each([widened(layer.channels)], [count])[0].mask)
