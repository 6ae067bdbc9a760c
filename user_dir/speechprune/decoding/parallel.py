"""Searches in several processes: flashlight holds Python's lock while it searches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from speechprune.decoding.beam import BeamSearch
from speechprune.decoding.hypothesis import Hypothesis, Search
from speechprune.errors import UserError
from speechprune.manifests.processes import spread


def searched(
    search: Search, emissions: Iterable[np.ndarray], workers: int | None
) -> Iterator[list[Hypothesis]]:
    """What is found in each utterance's emissions, float32 (T, V), in order.

    Args:
        workers: number of processes, None for one per core; with one, all is done here.

    Raises:
        UserError: as `BeamSearch.prepare`; or a process of them ended.
    """
    if not isinstance(search, BeamSearch):  # which takes less than handing it over
        yield from map(search, emissions)
        return
    search.prepare()
    try:
        yield from spread(search, emissions, workers)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that searched ended: there was too little memory, or "
            f"{search.language_model} is damaged; take a smaller --beam or fewer --workers, or "
            "make the language model again"
        ) from error
