"""Which plans are clearly worse than the best one, long before every utterance was heard."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechprune.errors import UserError

#: Utterances before the first comparison.
FIRST_LOOK = 16

#: Random signs that a comparison takes at most.
MOST_DRAWS = 1_000_000


@dataclass(frozen=True)
class Race:
    """A paired test over utterances, repeated whenever their number has doubled.

    A plan is compared with the one of the fewest errors so far. Were it no worse, the sign of each
    difference in errors on an utterance would be a coin toss: the test draws such signs at random
    and counts how often they make as large a difference (Fisher 1935). The level is divided by the
    number of comparisons (Bonferroni).

    Attributes:
        level: the probability, at most, that the truly best plan is stopped.
        seed: of the order of utterances and of the signs.

    Raises UserError unless 0.001 <= level < 1.
    """

    level: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.001 <= self.level < 1.0:
            raise UserError(f"the level of a race must lie in [0.001, 1), not {self.level}")

    def looks(self, utterances: int) -> list[int]:
        """After how many of the utterances plans are compared."""
        found = []
        look = FIRST_LOOK
        while look < utterances:
            found.append(look)
            look *= 2
        return found

    def clearly_worse(
        self, errors: NDArray[np.int64], running: Collection[int], look: int, looks: int, plans: int
    ) -> list[int]:
        """The plans to stop.

        Args:
            errors: of each plan on each utterance heard, (P, N).
            running: numbers of the plans that are still in the race.
            look: which comparison this is, from 0 on.
            looks: how many there are at most.
            plans: how many the race began with.
        """
        best = min(running, key=lambda plan: (errors[plan].sum(), plan))
        level = self.level / max(looks * (plans - 1), 1)
        draws = min(int(np.ceil(20 / level)), MOST_DRAWS)
        stopped = []
        for plan in sorted(set(running) - {best}):
            differences = errors[plan] - errors[best]
            generator = np.random.default_rng([self.seed, look, plan])
            if _chance_of(differences, draws, generator) < level:
                stopped.append(plan)
        return stopped


def _chance_of(differences: NDArray[np.int64], draws: int, generator: np.random.Generator) -> float:
    """How often random signs make a sum as large as that of ``differences``, (N,)."""
    observed = differences.sum()
    if observed <= 0:
        return 1.0
    # Of the differences of one size, a binomial number comes out positive.
    sizes, counts = np.unique(np.abs(differences), return_counts=True)
    positive = generator.binomial(counts, 0.5, size=(draws, len(sizes)))
    sums = (2 * positive - counts) @ sizes
    return float((1 + (sums >= observed).sum()) / (1 + draws))
