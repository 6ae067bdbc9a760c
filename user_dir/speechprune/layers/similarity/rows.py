"""What the measures share that compare rows: one for each utterance, or one for each frame."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from speechprune.errors import UserError
from speechprune.layers.similarity.base import Measure
from speechprune.layers.similarity.statistics import (
    FrameMoments,
    Moments,
    Statistic,
    UtteranceMeans,
    gaussian_moments,
    refuse_few,
)

MODES = {"U": UtteranceMeans, "T": FrameMoments}


class RowMeasure(Measure):
    """A measure of second moments.

    Attributes:
        mode: "U", the rows are the means over time of the utterances; "T", they are the frames.
    """

    mode: str

    @property
    def lowers_floor(self) -> str:
        return "more utterances" if self.mode == "T" else "mode T, or more utterances,"

    @property
    def least(self) -> int:
        return 2 if self.mode == "U" else 1

    def check(self) -> None:
        """Raise UserError for settings that cannot work."""
        if self.mode not in MODES:
            raise UserError(f"mode {self.mode!r} is neither U (utterances) nor T (frames)")

    @abstractmethod
    def of(self, moments: Moments) -> NDArray[np.float64]:
        """The similarity of each pair of states, (S, S)."""

    def statistic(self) -> Statistic:
        self.check()
        return MODES[self.mode]()

    def matrix(self, statistic: Statistic) -> NDArray[np.float64]:
        refuse_few(statistic.count, 2)
        assert isinstance(statistic, (UtteranceMeans, FrameMoments))
        return self.of(statistic.moments())

    def floor(self, statistic: Statistic, seed: int = 0) -> float:
        moments = gaussian_moments(statistic.count, statistic.channels, seed)
        return float(self.of(moments)[0, 1])
