"""Update number -> density, the share of each tensor that is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from speechprune.errors import UserError
from speechprune.masking.sites import Site


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
            if not 0.0 < density <= 1.0:
                raise UserError(f"density (the share kept) must lie in (0, 1], not {density}")

    def density(self, site: Site, update: int) -> float:
        return self.by_site.get(site.name, self.default)
