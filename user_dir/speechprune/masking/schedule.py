"""Update number -> density, the share of each tensor that is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from speechprune.errors import UserError
from speechprune.masking.densities import check_density
from speechprune.masking.sites import Site
from speechprune.registry import unknown_name


@dataclass(frozen=True)
class Timetable:
    """When masks are chosen: at update 0, and at every ``every``-th update from ``begin`` on.

    ``every`` is None for masks that stay. Raises UserError if it is below 1.
    """

    every: int | None
    begin: int = 0

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise UserError(f"masks must be chosen every 1 or more updates, not every {self.every}")

    def last_selection(self, update: int) -> int:
        """The last update, up to this one, at which masks are chosen."""
        if self.every is None or update < self.begin:
            return 0
        return update - (update - self.begin) % self.every

    def selects(self, update: int) -> bool:
        """Whether masks that there are already are chosen anew at ``update``."""
        return self.every is not None and self.last_selection(update) == update


class Schedule(ABC):
    """How dense each site is at each update."""

    @abstractmethod
    def density(self, site: Site, update: int) -> float:
        """The share of ``site`` kept at ``update``, in (0, 1]."""


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """One density for all updates, with exceptions by site name.

    Raises:
        UserError: a density lies outside (0, 1].
    """

    default: float
    by_site: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for density in (self.default, *self.by_site.values()):
            check_density("density", density)

    def density(self, site: Site, update: int) -> float:
        return self.by_site.get(site.name, self.default)


#: Share of the way from the first to the last density, as a function of the share of the time.
SHAPES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda time: time,
    # Zhu and Gupta, arXiv 1710.01878, equation 1.
    "cubic": lambda time: 1.0 - (1.0 - time) ** 3,
}


@dataclass(frozen=True)
class ProgressiveSchedule(Schedule):
    """From one density to another, for all sites.

    Attributes:
        start: density until the update ``begin``.
        target: density from the update ``end`` on.
        shape: a name in `SHAPES`: ``cubic`` removes much at first, ``linear`` evenly.

    Raises:
        UserError: a density lies outside (0, 1] or grows, an unknown shape, or an end that is not
            after the beginning.
    """

    start: float
    target: float
    begin: int
    end: int
    shape: str = "cubic"

    def __post_init__(self) -> None:
        for density in (self.start, self.target):
            check_density("density", density)
        if self.start < self.target:
            raise UserError(
                f"pruning removes more and more: it cannot go from density {self.start} to "
                f"{self.target}"
            )
        if self.shape not in SHAPES:
            raise UserError(unknown_name("schedule", self.shape, list(SHAPES)))
        if self.end <= self.begin:
            raise UserError(f"a schedule from update {self.begin} cannot end at {self.end}")

    def density(self, site: Site, update: int) -> float:
        if update >= self.end:
            return self.target
        time = max(update - self.begin, 0) / (self.end - self.begin)
        return self.start + (self.target - self.start) * SHAPES[self.shape](time)
