"""What a slimming criterion is: a rule that says how important each entry of a weight is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from speechprune.registry import Registry


class Criterion(ABC):
    """A rule that scores the entries of a weight; the units with the smallest scores are removed.

    Averaging entries into scores of heads and channels, momentum over the updates, selection,
    schedules and saving are shared: a criterion is one file with a subclass in it. Its options are
    the fields of its dataclass, if it is one.
    """

    #: Whether entries are made of gradients; else no training is needed to score a weight.
    needs_gradient: ClassVar[bool] = True

    @property
    def decay(self) -> float:
        """The momentum of a unit's score, in [0, 1): S <- decay * S + the score of the update."""
        return 0.0

    @abstractmethod
    def entries(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        """How important each entry is, not negative.

        A loss that is scaled scales all entries alike: those of a criterion that needs gradients
        are in proportion to them.

        Args:
            weight: floating point, (out, in), as it was when the gradient was taken; or some of
                its rows, since large weights are scored in blocks.
            gradient: dL/dweight, in the shape of the weight and maybe of another precision; None
                only where the criterion does not need it.

        Returns:
            float32, in the shape of the weight; always a new tensor.
        """


CRITERIA: Registry = Registry("slimming criterion", "speechprune.slimming.criteria")
