"""Which plans are clearly worse than the best one, long before every utterance was heard."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechprune.errors import UserError

#: Batches before the first comparison: with fewer no signs are rare enough.
FIRST_LOOK = 16

#: Batches that a race wants, where there are as many utterances.
ENOUGH = 64

#: Random signs that a comparison takes at most.
MOST_DRAWS = 1_000_000


@dataclass(frozen=True)
class Race:
    """A paired test over batches of utterances, repeated whenever their number has doubled.

    A plan is compared with the one of the fewest errors so far. Were it no worse, the sign of each
    difference in errors on a batch would be a coin toss: the test draws such signs at random and
    counts how often they make as large a difference (Fisher 1935). The level is divided by the
    number of comparisons (Bonferroni). Batches are what is drawn in random order: their utterances
    are of one length, and a plan may be better on long ones and worse on short ones.

    Attributes:
        level: the probability, at most, that the truly best plan is stopped.
        seed: of the order of batches and of the signs.

    Raises UserError unless 0.001 <= level < 1.
    """

    level: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.001 <= self.level < 1.0:
            raise UserError(f"the level of a race must lie in [0.001, 1), not {self.level}")

    @staticmethod
    def batch_size(utterances: int) -> int:
        """How many utterances a batch may have, so that there are batches enough."""
        return max(1, utterances // ENOUGH)

    def looks(self, batches: int) -> list[int]:
        """After how many of the batches plans are compared."""
        found = []
        look = FIRST_LOOK
        while look < batches:
            found.append(look)
            look *= 2
        return found

    def clearly_worse(
        self, errors: NDArray[np.int64], running: Collection[int], look: int, looks: int, plans: int
    ) -> list[int]:
        """The plans to stop.

        Args:
            errors: of each plan on each batch heard, (P, N).
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
