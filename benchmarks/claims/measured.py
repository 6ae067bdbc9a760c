"""What a panel of the map came to: errors of every seed, as a file and in a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from speechprune.checksums import read_json, write_json
from speechprune.errors import UserError
from speechprune.intervals import Interval, updates_in_words

#: Who is heard in a test split: what was trained on, other strings of its speakers, and those of a
#: speaker whom training never heard.
TRAINED, KNOWN, UNKNOWN = "trained", "known", "unknown"
LAST, BEST = "last", "best"
#: What stands for the errors of a training that diverged, which JSON has no number for.
_DIVERGED = "diverged"
#: The columns of errors, each a split and a checkpoint.
_COLUMNS = (
    *((split, LAST) for split in (TRAINED, KNOWN, UNKNOWN)),
    *((split, BEST) for split in (KNOWN, UNKNOWN)),
)
HEADS = (
    *("method", "rate", "bytes"),
    *(f"{split}, {which}" for split, which in _COLUMNS),
)
#: "100.0 (100.0 to 100.0)"
_INTERVAL = 22
WIDTHS = (33, 6, 9, *[_INTERVAL] * len(_COLUMNS))


@dataclass(frozen=True)
class Errors:
    """Of one checkpoint on one split, as shares: 1.0 is as many errors as there are words."""

    wer: float
    cer: float


@dataclass(frozen=True)
class SeedResult:
    """What one training came to.

    Attributes:
        seed: from 1.
        speaker: who was left out.
        errors: by checkpoint, and by split.
    """

    seed: int
    speaker: str
    errors: Mapping[str, Mapping[str, Errors]]


@dataclass(frozen=True)
class MethodResult:
    """What a method came to.

    Attributes:
        tried: character errors in validation by learning rate; infinite if training diverged.
        bytes: that a task adds to the model that all share, the median over seeds.
    """

    name: str
    tried: Mapping[float, float]
    bytes: int
    seeds: tuple[SeedResult, ...]

    @property
    def rate(self) -> float:
        """The learning rate with the fewest errors in validation."""
        return best_rate(self.tried)

    def of(self, split: str, which: str, kind: str) -> Interval:
        """Errors of all seeds in percent; ``kind`` is "wer" or "cer"."""
        errors = [seed.errors[which][split] for seed in self.seeds]
        return Interval.of([100 * getattr(each, kind) for each in errors])

    def row(self, kind: str) -> Iterator[str]:
        """The cells of its row in a table of one kind of errors."""
        yield from (self.name, f"{self.rate:g}", f"{self.bytes:,}")
        yield from (self.of(split, which, kind).in_words() for split, which in _COLUMNS)


@dataclass(frozen=True)
class PanelResult:
    """A place on the map.

    Attributes:
        model: what was adapted, as files and tables call it.
        digest: tells models of one name apart.
        recordings: tells apart what all speech was cut from.
        minutes: of labelled speech.
        updates: of each training.
    """

    model: str
    digest: str
    recordings: str
    minutes: float
    updates: int
    methods: tuple[MethodResult, ...]

    @property
    def slug(self) -> str:
        """The place in paths."""
        return f"{self.minutes:g}-minutes-{self.updates}-updates"

    @property
    def title(self) -> str:
        """Where on the map this is, and of which trainings."""
        return (
            f"{self.model}, {self.minutes:g} labelled minutes, {updates_in_words([self.updates])}; "
            f"{self.seeds_in_words}"
        )

    @property
    def seeds_in_words(self) -> str:
        """The seeds, and whom each left out."""
        return seeds_and_speakers(
            (each.seed, each.speaker) for m in self.methods for each in m.seeds
        )

    def with_method(self, found: MethodResult, order: Sequence[str]) -> PanelResult:
        """The same with a method that was measured now, in place of what was known of it.

        Args:
            order: names of all methods, as tables have them.
        """
        known = {method.name: method for method in self.methods} | {found.name: found}
        return replace(
            self, methods=tuple(sorted(known.values(), key=lambda m: order.index(m.name)))
        )

    def save(self, path: Path) -> None:
        """Write it as JSON, with a checksum."""
        found = asdict(self)
        for method in found["methods"]:
            method["tried"] = {
                str(rate): cer if math.isfinite(cer) else _DIVERGED
                for rate, cer in method["tried"].items()
            }
        write_json(path, found)

    @classmethod
    def load(cls, path: Path) -> PanelResult:
        """Read what `save` wrote; raises UserError for anything else."""
        found = read_json(path, "restore it, or measure anew")
        try:
            methods = tuple(_method(each) for each in found.pop("methods"))
            return cls(**found, methods=methods)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not a panel of the map ({error!r})") from error


def seeds_and_speakers(seeds: Iterable[tuple[int, str]]) -> str:
    """Seeds, each with the speaker whom it left out."""
    return "seeds " + ", ".join(f"{seed} without {who}" for seed, who in sorted(set(seeds)))


def best_rate(tried: Mapping[float, float]) -> float:
    """The learning rate with the fewest errors; of equal ones the lowest."""
    return min(tried, key=lambda rate: (tried[rate], rate))


def _method(found: dict[str, Any]) -> MethodResult:
    seeds = tuple(
        SeedResult(seed["seed"], seed["speaker"], _errors(seed["errors"]))
        for seed in found.pop("seeds")
    )
    tried = {
        float(rate): math.inf if cer == _DIVERGED else cer
        for rate, cer in found.pop("tried").items()
    }
    return MethodResult(**found, tried=tried, seeds=seeds)


def _errors(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Errors]]:
    return {
        which: {split: Errors(**errors) for split, errors in of_splits.items()}
        for which, of_splits in found.items()
    }
