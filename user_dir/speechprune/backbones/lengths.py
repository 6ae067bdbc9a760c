"""How long something is that an encoder hears or reads: so many seconds, or so many symbols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: What all encoders of speech listen at, in Hz.
SAMPLE_RATE = 16000


@dataclass(frozen=True)
class LengthUnit:
    """In what the lengths of a family's sources are told.

    Attributes:
        name: as options and reports have it.
        words: what there are so many of.
        samples: of the source in each.
        usual: how many of them costs are counted for, unless more or fewer are asked for.
    """

    name: str
    words: str
    samples: int
    usual: float


SECONDS = LengthUnit("seconds", "s of audio", SAMPLE_RATE, 10.0)
#: 128 is what GLUE's sentences are most often cut at.
SYMBOLS = LengthUnit("symbols", "symbols of text", 1, 128)


@dataclass(frozen=True)
class Length:
    """So many of a unit."""

    count: float
    unit: LengthUnit

    @property
    def samples(self) -> int:
        """The same in samples of a source."""
        return round(self.count * self.unit.samples)

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {self.unit.name: self.count}

    def __str__(self) -> str:
        return f"{self.count:g} {self.unit.words}"
