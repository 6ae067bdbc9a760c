"""Update number -> the share of heads or channels that is removed by then."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from speechprune.errors import UserError
from speechprune.masking import schedule as masking_schedule
from speechprune.masking.densities import check_sparsity
from speechprune.registry import unknown_name

#: Share of the way from the first to the last share, as a function of the share of the events.
_WAYS: Mapping[str, Callable[[float], float]] = {
    **masking_schedule.SHAPES,
    "cos": lambda time: 1.0 - math.cos(time * math.pi / 2.0),
    # Intel Neural Compressor's "cube": little at first, where "cubic" removes much.
    "intel_cube": lambda time: time**3,
}

#: The names of all shapes.
SHAPES = tuple(sorted(("exp", *_WAYS)))


@dataclass(frozen=True)
class SlimSchedule:
    """More and more is removed, in events that lie ``every`` updates apart.

    Event 0 is at update ``begin`` and removes ``start``; the last one is at or before ``end`` and
    removes ``target``.

    Attributes:
        target: share of units removed in the end, in [0, 1).
        begin: update of event 0.
        end: no event comes after this update.
        every: updates from one event to the next.
        shape: ``exp`` removes the same share of what is left at each event, ``linear`` evenly,
            ``cubic`` much at first, ``cos`` and ``intel_cube`` little at first. Source: Intel
            Neural Compressor 3.7.1; ``cubic`` is of Zhu and Gupta, arXiv 1710.01878, equation 1.
        start: share of units removed at event 0.

    Raises:
        UserError: a share outside [0, 1), a start above the target, an unknown shape, an end before
            the beginning, or so few updates between them that event 0 would be the only one: it
            comes before scores tell the units apart.
    """

    target: float
    begin: int
    end: int
    every: int
    shape: str = "cubic"
    start: float = 0.0

    def __post_init__(self) -> None:
        check_sparsity("the target of a schedule", self.target)
        check_sparsity("the start of a schedule", self.start)
        if self.start > self.target:
            raise UserError(
                f"slimming removes more and more: it cannot go from a share of {self.start} to "
                f"{self.target}; set a start that is not above the target"
            )
        if self.shape not in SHAPES:
            raise UserError(unknown_name("schedule", self.shape, list(SHAPES)))
        if self.every < 1:
            raise UserError(f"model.prune_every must be 1 or more updates, not {self.every}")
        if self.end < self.begin:
            raise UserError(
                f"model.prune_end={self.end} comes before model.prune_begin={self.begin}; set a "
                "later end or an earlier beginning"
            )
        if self.end - self.begin < self.every:
            raise UserError(
                f"model.prune_begin={self.begin} to model.prune_end={self.end} holds no event "
                f"after the beginning with model.prune_every={self.every}; set an earlier "
                "beginning, a later end, or fewer updates from one event to the next"
            )

    @property
    def events(self) -> range:
        """The updates of all events in order: event 0, 1, ..., N."""
        return range(self.begin, self.end + 1, self.every)

    def event_at(self, update: int) -> int | None:
        """The number of the event at ``update``, or None if there is none."""
        return self.events.index(update) if update in self.events else None

    def share(self, event: int) -> float:
        """The share of units removed from event number ``event`` on, in [0, 1)."""
        last = len(self.events) - 1
        if not 0 <= event <= last:
            raise IndexError(f"there is no event {event}: they are numbered from 0 to {last}")
        # The ends are exact: rounding errors would remove one unit too few or too many there.
        if event == 0:
            return self.start
        if event == last:
            return self.target
        time = event / last
        if self.shape == "exp":
            return 1.0 - (1.0 - self.start) * ((1.0 - self.target) / (1.0 - self.start)) ** time
        return self.start + (self.target - self.start) * _WAYS[self.shape](time)
