"""What one task adds to a shared model: masks, and the few tensors that are its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from speechprune.bank.coding import entropy
from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet

#: What frozen weights may have been rounded to when a task was trained.
PRECISIONS = ("float32", "float16", "bfloat16")
#: Kinds of outputs: letters of words, units such as phones, and classes of whole utterances.
LETTERS, UNITS, LABELS = "letters", "units", "labels"
#: In the place of a task's name: whichever of them suits best.
AUTO = "auto"
_NAME = re.compile(r"[^\W_][\w.+-]{0,63}")


@dataclass(frozen=True)
class ErrorRate:
    """How good a task is.

    Attributes:
        percent: errors of a hundred.
        name: what is counted: WER, UER, CER.
        split: of what; None if that is not known.
    """

    percent: float
    name: str
    split: str | None = None

    def describe(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def of(cls, described: Any) -> ErrorRate:
        """What `describe` gave; raises UserError for anything else."""
        found = described if isinstance(described, dict) else {}
        percent, name, split = (found.get(key) for key in ("percent", "name", "split"))
        if (
            not isinstance(percent, (int, float))
            or not isinstance(name, str)
            or not isinstance(split, (str, type(None)))
        ):
            raise UserError("its error rate cannot be read")
        return cls(float(percent), name, split)


@dataclass(frozen=True)
class Task:
    """A language or task on the model of a bank.

    Attributes:
        name: letters, digits and ``_.+-``, at most 64 of them.
        masks: of tensors of the shared model, or of its own.
        own: tensors by their keys in a finetuned checkpoint: the head, and whatever else was
            trained beside masks; float32 or float16.
        about: what else there is to know, as JSON can hold it: settings, what the outputs stand
            for, where it came from.
        precision: what the shared weights were rounded to in its training, one of PRECISIONS.

    Raises UserError for a name that cannot be one, and another precision.
    """

    name: str
    masks: MaskSet
    own: Mapping[str, np.ndarray]
    about: Mapping[str, Any] = field(default_factory=dict)
    precision: str = PRECISIONS[0]

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.precision not in PRECISIONS:
            raise UserError(f"the precision {self.precision!r} is none of {', '.join(PRECISIONS)}")

    @property
    def entropy_bytes(self) -> float:
        """What its masks take at the least, if their entries are independent: the entropy of each
        site's density."""
        tallies = self.masks.tallies(str).values()
        return sum(entropy(tally.density, tally.total) for tally in tallies)


def check_name(name: str) -> None:
    """Raise UserError unless ``name`` can be that of a task."""
    if not _NAME.fullmatch(name) or name == AUTO:
        raise UserError(
            f"{name!r} cannot be the name of a task: use letters, digits and _.+- (64 at most), "
            f"but not {AUTO!r}"
        )
