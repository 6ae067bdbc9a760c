"""Work in several processes, which an interruption ends without a trace."""

from __future__ import annotations

import os
import signal
import time

import pytest

from speechprune.manifests.processes import spread


def held_signals(_: int) -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def test_workers_leave_an_interruption_to_their_parent() -> None:
    for found in spread(held_signals, range(20), 2):
        assert signal.SIGINT in found
        assert signal.SIGINT not in held_signals(0)


def interrupt_both(number: int) -> int:
    """Press Ctrl-C: the terminal sends it to the parent and to this process."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getppid(), signal.SIGINT)
    time.sleep(0.01)
    return number


def test_an_interruption_ends_the_work(capfd: pytest.CaptureFixture[str]) -> None:
    found = []
    with pytest.raises(KeyboardInterrupt):
        for number in spread(interrupt_both, range(1000), 2):
            found.append(number)
    assert found == list(range(len(found))) and len(found) < 50
    assert capfd.readouterr().err == ""
