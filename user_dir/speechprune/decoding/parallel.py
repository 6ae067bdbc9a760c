"""Searches in several processes: flashlight holds Python's lock while it searches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from itertools import product

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
    yield from _spread([search], ((search, each) for each in emissions), workers)


def searched_by_all(
    searches: Sequence[Search], emissions: Sequence[np.ndarray], workers: int | None
) -> Iterator[list[Hypothesis]]:
    """What each search finds in all emissions, one search after the other, by the same processes.

    Args:
        searches: that read the same files.
        workers: as for `searched`.

    Raises:
        UserError: as `searched`.
    """
    yield from _spread(searches, product(searches, emissions), workers)


def _spread(
    searches: Sequence[Search], tasks: Iterable[tuple[Search, np.ndarray]], workers: int | None
) -> Iterator[list[Hypothesis]]:
    search = searches[0]
    if isinstance(search, BeamSearch):
        search.prepare()
    try:
        yield from spread(_searched, tasks, workers)
    except BrokenProcessPool as error:
        model = search.language_model if isinstance(search, BeamSearch) else None
        damaged = "" if model is None else f", or {model} is damaged: make it again"
        raise UserError(
            "a process that searched ended: there was too little memory, so take a smaller --beam "
            f"or fewer --workers{damaged}"
        ) from error


def _searched(task: tuple[Search, np.ndarray]) -> list[Hypothesis]:
    search, emissions = task
    return search(emissions)
