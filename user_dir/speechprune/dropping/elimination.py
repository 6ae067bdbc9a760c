"""Greedy layer pruning: drop layers one by one by the error rate itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from speechprune.dropping.verification import Found, Verifier
from speechprune.layers.plan import LayerPlan, check_drop
from speechprune.layers.race import Race


@dataclass(frozen=True)
class Elimination(Generic[Found]):
    """What a search by error rate found: the best plan of each step, the last of them the result.

    Attributes:
        steps: plans that drop 1, 2, ... layers, with what they were measured to do.
        evaluations: plans that were measured.
        stopped: those of them that were out of the race early.
    """

    steps: tuple[Found, ...]
    evaluations: int
    stopped: int

    @property
    def plan(self) -> LayerPlan:
        return self.steps[-1].plan


def eliminate(
    verifier: Verifier[Found], drop: int, metric: str, race: Race | None = None
) -> Elimination[Found]:
    """Greedy layer pruning: at each step drop the layer without which the errors are fewest.

    It measures Σ (L - i) plans for i from 0 to ``drop`` - 1. Of layers that tie, the first goes.

    Source: Peer et al., *Greedy-layer pruning*, Pattern Recognition Letters 2022, with error rates
    as in Liu et al., Interspeech 2023.

    Raises:
        UserError: ``drop`` is not 1 to L - 1, or as `Verifier.measure`.
    """
    layers = len(verifier.layers)
    check_drop(drop, layers)
    steps: list[Found] = []
    evaluations = stopped = 0
    for _ in range(drop):
        gone = steps[-1].plan.dropped if steps else ()
        candidates = [LayerPlan(layers, (*gone, n)) for n in range(layers) if n not in gone]
        measured = verifier.measure(candidates, metric, race)
        evaluations += len(measured)
        stopped += sum(each.stopped for each in measured)
        steps.append(min(measured, key=lambda each: each.rank(metric)))
    return Elimination(tuple(steps), evaluations, stopped)
