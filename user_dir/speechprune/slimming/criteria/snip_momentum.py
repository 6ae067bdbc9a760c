"""SNIP with momentum, as Intel Neural Compressor 3.7.1 defines it."""

from __future__ import annotations

from dataclasses import dataclass

from speechprune.errors import UserError
from speechprune.registry import option
from speechprune.slimming.criteria.base import CRITERIA
from speechprune.slimming.criteria.snip import Snip


@CRITERIA.register("snip_momentum")
@dataclass(frozen=True)
class SnipMomentum(Snip):
    """Scores an entry by |W G|, gathered over all updates so far.

    Raises:
        UserError: a decay outside [0, 1).
    """

    decay: float = option("What is left of a score after one more update.", 0.9)

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise UserError(
                f"the decay of snip_momentum must lie in [0, 1), not {self.decay}; the usual one "
                "is 0.9"
            )
