"""Work in several processes, its results in the order of the tasks."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from typing import TypeVar

from speechprune.workers import follow_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

#: Tasks given out ahead of the results, per worker: keeps memory flat.
_AHEAD = 4


def spread(
    run: Callable[[Task], Result], tasks: Iterable[Task], workers: int | None
) -> Iterator[Result]:
    """What `run` makes of each task, in order.

    Args:
        run: anything that can be pickled.
        workers: number of processes, None for one per core; with one worker all is done here.
    """
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        yield from map(run, tasks)
        return
    with ProcessPoolExecutor(workers, _context(), follow_parent) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                with _not_interrupted():
                    waiting.append(pool.submit(run, task))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Lets an interruption wait: while a process forks it would be lost.

    The new process goes on like this. It ends after its task, as its parent tells it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context() -> BaseContext:
    """How processes start: as Python likes best, but anew once this process uses a GPU, which does
    not survive a fork."""
    torch = sys.modules.get("torch")  # not imported for this: it takes a second
    uses_gpu = torch is not None and torch.cuda.is_initialized()
    return get_context("spawn" if uses_gpu else None)


def chunked(items: Iterable[Task], size: int) -> Iterator[list[Task]]:
    """The items in lists of `size`, the last perhaps shorter."""
    stream = iter(items)
    return iter(lambda: list(islice(stream, size)), [])
