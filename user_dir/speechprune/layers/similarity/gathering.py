"""One pass over the hidden states for any number of measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.layers.similarity.base import Measure
from speechprune.layers.similarity.statistics import Statistic


def gather(states: Iterable[Tensor], measures: Sequence[Measure]) -> list[Statistic]:
    """The statistic of each measure, in order; measures that need the same share one.

    Args:
        states: of one utterance each, float (S, T, C), valid frames only.

    Raises:
        UserError: a setting of a measure that cannot work, before any state is asked for; or states
            that are not finite.
    """
    shared: list[Statistic] = []
    for_measure = []
    for measure in measures:
        wanted = measure.statistic()
        found = next((each for each in shared if each == wanted), wanted)
        if found is wanted:
            shared.append(wanted)
        for_measure.append(found)
    for utterance in states:
        if not torch.isfinite(utterance).all():
            raise UserError(
                "the model's hidden states are not finite: its weights are damaged, or training "
                "diverged"
            )
        for statistic in shared:
            statistic.add(utterance)
    return for_measure
