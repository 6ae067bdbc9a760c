"""One process per rank, on one machine: all end together, whichever ends first."""

from __future__ import annotations

import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from signal import Signals
from typing import Any

from speechprune.ending import exit_on_sigterm
from speechprune.errors import UserError
from speechprune.training.failures import user_message
from speechprune.workers import follow_parent

logger = logging.getLogger(__name__)

#: What a rank runs: called with its rank, then the arguments that all ranks share; picklable.
RankFunction = Callable[..., Any]

_SECONDS_TO_END = 5.0
_SECONDS_TO_FOLLOW = 1.0
_LONGEST_TRACEBACK = 20000


@dataclass(frozen=True)
class _Report:
    """What a rank sends when it ends: a value, or why there is none."""

    value: Any = None
    message: str | None = None
    traceback: str | None = None


@dataclass(frozen=True)
class _Rank:
    number: int
    process: BaseProcess
    reports: connection.Connection

    @cached_property
    def report(self) -> _Report:
        """What the ended process sent; empty if it was killed."""
        try:
            return self.reports.recv() if self.reports.poll() else _Report()
        except EOFError:
            return _Report()

    @property
    def reason(self) -> str | None:
        """What tells a user why the ended process failed: the signal, or its own words."""
        code = self.process.exitcode
        if code is not None and code < 0:
            name = Signals(-code).name
            return f"the process of rank {self.number} was ended by {name} (out of memory?)"
        return self.report.message


def run_ranks(
    function: RankFunction, count: int, *shared: Any, environment: Mapping[str, str]
) -> Any:
    """Run ``function(rank, *shared)`` in ``count`` new processes.

    Args:
        environment: variables that the processes have besides this process's own.

    Returns:
        What rank 0 returned.

    Raises:
        UserError: a rank failed; the others have been ended.
    """
    context = get_context("spawn")
    ranks = []
    try:
        for number in range(count):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_rank, args=(sender, function, number, *shared))
            with set_environment(environment):
                process.start()
            sender.close()
            ranks.append(_Rank(number, process, receiver))
        failed = _first_failed(ranks)
        if failed:
            raise UserError(_explained(failed))
        return ranks[0].report.value
    finally:
        _end(ranks)


def address_of(init_method: str | None) -> str:
    """Where ranks meet: ``init_method``, or a free port of this machine.

    Raises UserError if the port of ``init_method`` is taken.
    """
    wanted = 0
    if init_method is not None:
        port = init_method.rpartition(":")[2]
        if not init_method.startswith("tcp://") or not port.isdigit():
            return init_method
        wanted = int(port)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("localhost", wanted))
        except OSError as error:
            raise UserError(
                f"port {wanted} is not free; drop distributed_training.distributed_init_method to "
                "have a free one chosen"
            ) from error
        return init_method or f"tcp://localhost:{probe.getsockname()[1]}"


def _rank(sender: connection.Connection, function: RankFunction, number: int, *shared: Any) -> None:
    """The whole life of a rank."""
    follow_parent()
    exit_on_sigterm()
    try:
        sender.send(_Report(value=function(number, *shared)))
    except BaseException as error:
        text = traceback.format_exc()[-_LONGEST_TRACEBACK:]
        sender.send(_Report(message=user_message(error), traceback=text))
        raise SystemExit(1) from None


def _first_failed(ranks: Sequence[_Rank]) -> list[_Rank]:
    """Wait until all have ended well, or until some have failed: those."""
    running: dict[Any, _Rank] = {rank.process.sentinel: rank for rank in ranks}
    failed: list[_Rank] = []
    while running:
        # A rank may notice that it was left alone before the end of the other is seen here.
        seconds = _SECONDS_TO_FOLLOW if failed else None
        ended = [running.pop(sentinel) for sentinel in connection.wait(list(running), seconds)]
        for rank in ended:
            rank.process.join()
        failed += [rank for rank in ended if rank.process.exitcode]
        if failed and (not ended or any(rank.reason is not None for rank in failed)):
            break
    return failed


def _explained(failed: Sequence[_Rank]) -> str:
    """Why training ended: a rank that was killed or gave its reason comes before one that only
    noticed that it was left alone."""
    killed_first = sorted(failed, key=lambda rank: (rank.process.exitcode or 0) >= 0)
    for rank in killed_first:
        if rank.reason is not None:
            return rank.reason
    first = failed[0]
    trace = first.report.traceback or "no report"
    logger.error(f"rank {first.number}: {trace}")
    last = trace.strip().rpartition("\n")[2]
    return f"the process of rank {first.number} failed: {last}; its traceback is above"


@contextmanager
def set_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Have these variables for a while."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end(ranks: Sequence[_Rank]) -> None:
    for rank in ranks:
        rank.process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for rank in ranks:
        rank.process.join(max(0.0, deadline - time.monotonic()))
        if rank.process.is_alive():
            rank.process.kill()
            rank.process.join()
        rank.reports.close()
