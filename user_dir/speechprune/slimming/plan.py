"""SlimPlan: which heads and channels of each layer stay, as a validated value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from speechprune.errors import UserError

#: Where the settings of an encoder, and a model in memory, keep their plan.
SLIM_PLAN = "slim_plan"

#: More units than any layer has: a few bytes of a file could name any number.
_MOST_UNITS = 1 << 16
_RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?")


@dataclass(frozen=True)
class KeptUnits:
    """What one layer keeps, ascending, by 0-based numbers.

    Raises UserError if a number is negative or named twice, or if no head or no channel stays.
    """

    heads: tuple[int, ...]
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        for kind, kept in (("head", self.heads), ("channel", self.channels)):
            if not kept:
                raise UserError(f"a layer would be left without a {kind}: at least one must stay")
            if kept[0] < 0 or any(after <= before for before, after in zip(kept, kept[1:])):
                raise UserError(f"the {kind}s that a layer keeps must be named once each, in order")

    @classmethod
    def all(cls, heads: int, channels: int) -> KeptUnits:
        """Everything."""
        return cls(tuple(range(heads)), tuple(range(channels)))

    def then(self, later: KeptUnits) -> KeptUnits:
        """What is kept in the end, by the numbers here, if ``later`` is of what is kept here."""
        return KeptUnits(
            tuple(self.heads[head] for head in later.heads),
            tuple(self.channels[channel] for channel in later.channels),
        )

    def check_fits(self, heads: int, channels: int) -> None:
        """Raise UserError unless a layer has all of them."""
        for kind, kept, there in (
            ("head", self.heads, heads),
            ("channel", self.channels, channels),
        ):
            if kept[-1] >= there:
                raise UserError(f"it keeps {kind} {kept[-1]}, but there are {there} {kind}s")


@dataclass(frozen=True)
class SlimPlan:
    """The units of a model that stay, layer by layer, by the numbers that they had at first.

    Attributes:
        backbone: the model family's name in fairseq's registry.
        heads: of every layer at first.
        channels: of every layer's feed-forward block at first.
        kept: one entry for each layer that the model has.

    Raises UserError if there is no layer, or a layer keeps what it never had.
    """

    backbone: str
    heads: int
    channels: int
    kept: tuple[KeptUnits, ...]

    def __post_init__(self) -> None:
        if not self.kept:
            raise UserError("a slim plan needs at least one layer")
        for layer, kept in enumerate(self.kept):
            try:
                kept.check_fits(self.heads, self.channels)
            except UserError as error:
                raise UserError(f"layer {layer} of the slim plan: {error}") from error

    @classmethod
    def whole(cls, backbone: str, heads: int, channels: int, layers: int) -> SlimPlan:
        """The plan of a model that has lost nothing."""
        return cls(backbone, heads, channels, (KeptUnits.all(heads, channels),) * layers)

    @property
    def removes_nothing(self) -> bool:
        """Whether every layer keeps all of its units."""
        return self == SlimPlan.whole(self.backbone, self.heads, self.channels, len(self.kept))

    def then(self, later: Sequence[KeptUnits]) -> SlimPlan:
        """The plan once some of what it keeps is removed too.

        Args:
            later: for each layer, by the numbers in what this plan leaves.

        Raises:
            UserError: it is for another number of layers, or keeps what is gone.
        """
        if len(later) != len(self.kept):
            raise UserError(f"a slim plan for {len(later)} layers, but there are {len(self.kept)}")
        for layer, (before, after) in enumerate(zip(self.kept, later)):
            try:
                after.check_fits(len(before.heads), len(before.channels))
            except UserError as error:
                raise UserError(f"layer {layer} of the slim plan: {error}") from error
        kept = tuple(before.then(after) for before, after in zip(self.kept, later))
        return SlimPlan(self.backbone, self.heads, self.channels, kept)

    def of_layers(self, layers: Iterable[int]) -> SlimPlan:
        """The plan of the model that has only some of its layers, by their 0-based numbers."""
        kept = tuple(self.kept[layer] for layer in layers)
        return SlimPlan(self.backbone, self.heads, self.channels, kept)

    def describe(self) -> dict[str, Any]:
        """As files hold it: kept units are text such as "0-2,5"."""
        return {
            "backbone": self.backbone,
            "heads": self.heads,
            "channels": self.channels,
            "layers": [
                {"heads": _ranges(kept.heads), "channels": _ranges(kept.channels)}
                for kept in self.kept
            ],
        }

    @classmethod
    def of(cls, described: Any) -> SlimPlan:
        """The plan that `describe` described; raises UserError, in one line, if it is none."""
        try:
            heads, channels = (_count(described[kind]) for kind in ("heads", "channels"))
            kept = tuple(
                KeptUnits(
                    _numbers(layer["heads"], heads - 1), _numbers(layer["channels"], channels - 1)
                )
                for layer in described["layers"]
            )
            backbone = described["backbone"]
            if not isinstance(backbone, str):
                raise TypeError("a backbone has a name")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = str(described)
            shown = text if len(text) <= 120 else f"{text[:120]}..."
            raise UserError(f"this is not a slim plan, or it is damaged: {shown}") from error
        return cls(backbone, heads, channels, kept)


def _ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers as text, such as "0-2,5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _numbers(text: str, last: int) -> tuple[int, ...]:
    """What `_ranges` wrote; raises ValueError if it is something else, or goes beyond ``last``."""
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is not a range of numbers")
        begin, end = int(match[1]), int(match[2] or match[1])
        if begin > end or end > last or (found and begin <= found[-1]):
            raise ValueError(f"{part!r} is out of order, or beyond {last}")
        found.extend(range(begin, end + 1))
    return tuple(found)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 < value <= _MOST_UNITS:
        raise ValueError(f"{value!r} is not a number of units")
    return value
