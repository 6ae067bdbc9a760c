"""What a slimmed model is to keep at each event: shares of units, or a budget of cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.slimming.budget import Group, select_share
from speechprune.slimming.schedule import SlimSchedule
from speechprune.slimming.selection import select_units
from speechprune.slimming.units import KINDS

#: One score, or one bool that is True where the unit stays, for each unit of each layer, by kind.
#: A layer whose units of a kind all stay is left out.
PerUnit = dict[tuple[str, int], Tensor]


class ProgressiveTarget(ABC):
    """How much is to be kept at each event, and of what."""

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

    def check(self, counts: Mapping[tuple[str, int], int]) -> None:
        """Raise UserError if the last event is impossible.

        Args:
            counts: of the units that may go, by kind and layer.
        """
        alike = {key: torch.zeros(count) for key, count in counts.items()}
        self.select(alike, len(self.schedule.events) - 1)


@dataclass(frozen=True)
class Shares(ProgressiveTarget):
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
class Budget(ProgressiveTarget):
    """So much goes that what is left costs at most a share of the whole model.

    Attributes:
        measure: what costs are: ``parameters`` or ``multiply_adds``.
        total: cost of the whole model.
        costs: of one unit, by kind and layer, for all units that may go.
        removed: share of ``total``, event by event.
        floor, cap: the smallest and the largest share of its units of a kind that a layer loses.
        sizes: parameters of one unit, by kind and layer; see `Group`; 1 where it is missing.
        normalised: whether scores are relative to the mean of their kind and layer.
    """

    measure: str
    total: int
    costs: Mapping[tuple[str, int], int]
    removed: SlimSchedule
    floor: float = 0.0
    cap: float = 0.98
    sizes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    normalised: bool = False

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
            Group(
                *key,
                each,
                self.costs[key],
                floor,
                self.cap,
                self.sizes.get(key, 1),
            )
            for key, each in scores.items()
        ]
        kept = select_share(
            groups, self.total, 1.0 - share, self.measure, normalised=self.normalised
        )
        return dict(zip(scores, kept))
