"""What a similarity measure is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from speechprune.layers.similarity.statistics import Statistic
from speechprune.registry import Registry


class Measure(ABC):
    """How alike two hidden states of a model are, from 0 to 1; one file each, a dataclass.

    The fields of the dataclass are its settings.

    Attributes:
        invariances: changes of a state's channels that leave the measure as it is: "translation",
            "scale", "rotation", "linear" (any invertible map).
    """

    invariances: ClassVar[frozenset[str]]

    @property
    def lowers_floor(self) -> str:
        """What would make independent data less alike, as advice."""
        return "more utterances"

    @property
    @abstractmethod
    def least(self) -> int:
        """Utterances that it needs at least."""

    @abstractmethod
    def statistic(self) -> Statistic:
        """What has to be gathered for it, empty; measures with equal ones share one.

        Raises:
            UserError: a setting that cannot work.
        """

    @abstractmethod
    def matrix(self, statistic: Statistic) -> NDArray[np.float64]:
        """The similarity of each pair of the S states, (S, S), symmetric.

        Raises:
            UserError: too little was gathered.
        """

    @abstractmethod
    def floor(self, statistic: Statistic, seed: int = 0) -> float:
        """What the measure gives for independent Gaussian data of the statistic's size."""

    def used(self, statistic: Statistic) -> int:
        """How much of what was gathered the matrix is made of."""
        return statistic.count

    def describe(self) -> dict[str, Any]:
        """Its settings."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def settings(cls) -> list[str]:
        """The names of its settings."""
        return [field.name for field in fields(cls)]  # type: ignore[arg-type]


MEASURES: Registry = Registry("similarity measure", "speechprune.layers.similarity")
