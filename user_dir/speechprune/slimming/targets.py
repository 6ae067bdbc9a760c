"""What a slimmed model is to keep at each event: shares of units, or a budget of cost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.slimming.budget import Group, select_within, smallest_budget
from speechprune.slimming.schedule import SlimSchedule
from speechprune.slimming.selection import select_units
from speechprune.slimming.units import KINDS

#: One score, or one bool that is True where the unit stays, for each unit of each layer, by kind.
#: A layer whose units of a kind all stay is left out.
PerUnit = dict[tuple[str, int], Tensor]

#: Of a product of a share and a cost, relative to it.
_ROUNDING = 1e-12


class Target(ABC):
    """How much is to be kept, and of what."""

    @property
    @abstractmethod
    def schedule(self) -> SlimSchedule:
        """When there are events, from nothing removed to all that is to go."""

    @abstractmethod
    def select(self, scores: PerUnit, event: int) -> PerUnit:
        """The units that stay from an event on.

        Args:
            scores: by kind and layer, (N,); what is to stay whole is left out.

        Raises:
            UserError: the target is impossible.
            FloatingPointError: a score is NaN.
        """

    @property
    @abstractmethod
    def kinds(self) -> tuple[str, ...]:
        """The kinds of units that something is removed of."""


@dataclass(frozen=True)
class Shares(Target):
    """A share of each kind's units goes.

    Attributes:
        schedules: by kind; all have their events at the same updates.
        scope: ``local``, ``global`` or ``global_normalised``.
        floor, cap: the smallest and the largest share that a layer loses in the end.
    """

    schedules: dict[str, SlimSchedule]
    scope: str = "local"
    floor: float = 0.0
    cap: float = 0.98

    def __post_init__(self) -> None:
        if not self.schedules:
            raise UserError("nothing is to be removed: give a share of heads or of channels")

    @property
    def schedule(self) -> SlimSchedule:
        return next(iter(self.schedules.values()))

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in KINDS if kind in self.schedules)

    def select(self, scores: PerUnit, event: int) -> PerUnit:
        found: PerUnit = {}
        for kind in self.kinds:
            share = self.schedules[kind].share(event)
            own = {key: each for key, each in scores.items() if key[0] == kind}
            kept = select_units(
                list(own.values()), share, self.scope, floor=min(self.floor, share), cap=self.cap
            )
            found.update(zip(own, kept))
        return found


@dataclass(frozen=True)
class Budget(Target):
    """So much goes that what is left costs at most a share of the whole model.

    Attributes:
        of: what costs are: ``parameters`` or ``multiply-adds``.
        total: cost of the whole model.
        costs: of one unit, by kind and layer, for all units that may go.
        removed: share of ``total``, event by event.
        floor, cap: the smallest and the largest share of its units of a kind that a layer loses.
    """

    of: str
    total: int
    costs: dict[tuple[str, int], int]
    removed: SlimSchedule
    floor: float = 0.0
    cap: float = 0.98

    @property
    def schedule(self) -> SlimSchedule:
        return self.removed

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in KINDS if any(key[0] == kind for key in self.costs))

    def select(self, scores: PerUnit, event: int) -> PerUnit:
        share = self.removed.share(event)
        # The floor holds in the end; before, it grows with the schedule.
        floor = self.floor * share / self.removed.target if share else 0.0
        groups = [
            Group(kind, layer, each, self.costs[kind, layer], floor, self.cap)
            for (kind, layer), each in scores.items()
        ]
        removable = sum(group.cost * group.scores.numel() for group in groups)
        # A share such as 0.7 is no exact number, and must not cost one parameter.
        allowed = math.floor((1.0 - share) * self.total * (1.0 + _ROUNDING))
        allowed -= self.total - removable
        self._refuse_impossible(groups, allowed, removable)
        return dict(zip(scores, select_within(groups, allowed)))

    def check(self, counts: Mapping[tuple[str, int], int]) -> None:
        """Raise UserError if the budget cannot be met.

        Args:
            counts: of all units that there are, by kind and layer.
        """
        alike = {key: torch.zeros(counts[key]) for key in self.costs}
        self.select(alike, len(self.removed.events) - 1)

    def _refuse_impossible(self, groups: Sequence[Group], allowed: int, removable: int) -> None:
        least = smallest_budget(groups)
        if allowed < least:
            possible = (self.total - removable + least) / self.total
            raise UserError(
                f"to keep {1.0 - self.removed.target:.4g} of the {self.of} is impossible: with "
                "at least one head and one channel in each layer, and no layer losing more than "
                f"{self.cap:g} of either, {possible:.4f} are kept at least; keep more, or raise "
                "model.slim_cap"
            )
