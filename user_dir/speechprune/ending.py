"""Ending on a signal: the program ends what it started, and then itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: A signal to a whole job reaches a process twice: from outside, and from its parent.
_SECONDS_OF_ONE_REQUEST = 2.0
_SECONDS_BETWEEN_REPEATS = 1.0
_SECONDS_TO_END = 30.0

_children: set[subprocess.Popen[bytes]] = set()


class Ended(KeyboardInterrupt):
    """A signal asks the program to end; like Ctrl-C, it passes what handles exceptions."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def end_on_signals() -> None:
    """Let Ctrl-C, SIGTERM and a hangup raise `Ended` in the main thread.

    Those that are ignored, as a hangup is under nohup, stay so. Whoever asks again ends the process
    at once.
    """
    asked: list[float] = []

    def end(number: int, frame: Any) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            _repeat_until_noticed(number)
            raise Ended(number)
        if asked[-1] - asked[0] > _SECONDS_OF_ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def _repeat_until_noticed(number: int) -> None:
    """Raise `Ended` again where it was lost: callbacks from C and imports that fall back on any
    error keep it to themselves."""

    def repeat(alarm: int, frame: Any) -> None:
        # While something is cleaned up because of it, it is the exception that is handled.
        handled = sys.exc_info()[1]
        while handled is not None and not isinstance(handled, Ended):
            handled = handled.__context__
        if handled is None:
            raise Ended(number)

    signal.signal(signal.SIGALRM, repeat)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_BETWEEN_REPEATS, _SECONDS_BETWEEN_REPEATS)


def notice() -> None:
    """Say that `Ended` has come to where the program ends."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as its own end does, and first of all those that it started with
    `multiprocessing`, such as the workers of a data loader, which would be waited for."""

    def leave(number: int, frame: Any) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error for lost workers
        for child in multiprocessing.active_children():
            child.kill()
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def run_child(command: Sequence[str], **options: Any) -> int:
    """Run a command that ends with this process, if that is asked to end.

    It has a session of its own, so that a terminal's Ctrl-C comes to it once, from here.

    Args:
        options: of `subprocess.Popen`.

    Returns:
        Its exit status.
    """
    with subprocess.Popen(command, start_new_session=True, **options) as child:
        _children.add(child)
        try:
            return child.wait()
        except BaseException:
            _end([child])
            raise
        finally:
            _children.discard(child)


def end_children() -> None:
    """End the commands that `run_child` runs in all threads, and wait until they have ended."""
    _end(list(_children))


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        child.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
