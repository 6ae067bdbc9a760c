"""Ranks end together: with a value, with the reason of the first that failed, or with their parent.

Ranks are forked here, which is quick; that new interpreters work too is for test_train.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from speechprune.errors import UserError
from speechprune.training import processes
from speechprune.training.processes import address_of, run_ranks

FOREVER = 600
fork = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "get_context", lambda _: fork)


def note_and(folder: Path, rank: int) -> None:
    """Leave this process's id in ``folder``, then wait until all have."""
    (folder / f"{rank}.tmp").write_text(str(os.getpid()))
    (folder / f"{rank}.tmp").rename(folder / str(rank))
    while not (folder / str(1 - rank)).exists():
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids(folder: Path) -> list[int]:
    """The ids that two ranks left, once they have."""
    while not all((folder / str(rank)).exists() for rank in range(2)):
        time.sleep(0.01)
    return [int((folder / str(rank)).read_text()) for rank in range(2)]


def assert_all_end(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids(folder)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def give(rank: int, factor: int) -> tuple[int, str]:
    return rank + 7 * factor, os.environ["SPEECHPRUNE_TEST"]


def wait_or_refuse(rank: int, folder: Path) -> None:
    note_and(folder, rank)
    if rank == 1:
        raise UserError("rank 1 cannot")
    time.sleep(FOREVER)


def wait_or_break(rank: int, folder: Path) -> None:
    note_and(folder, rank)
    if rank == 1:
        raise KeyError("bug of rank 1")
    time.sleep(FOREVER)


def wait_or_die(rank: int, folder: Path) -> None:
    """Rank 1 is killed; rank 0 notices that it is alone, and complains."""
    note_and(folder, rank)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while is_alive(int((folder / "1").read_text())):
        time.sleep(0.01)
    raise RuntimeError("connection closed by peer")


def complain_or_die(rank: int, folder: Path) -> None:
    """The end of rank 0 is seen before that of rank 1, its cause."""
    note_and(folder, rank)
    if rank == 0:
        raise RuntimeError("connection closed by peer")
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_forever(rank: int, folder: Path) -> None:
    note_and(folder, rank)
    time.sleep(FOREVER)


def test_rank_0_gives_its_value_and_ranks_have_their_environment() -> None:
    value = run_ranks(give, 2, 3, environment={"SPEECHPRUNE_TEST": "set"})
    assert value == (21, "set")
    assert "SPEECHPRUNE_TEST" not in os.environ


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (wait_or_refuse, "^rank 1 cannot$"),
        (wait_or_break, "rank 1 failed: KeyError: 'bug of rank 1'; its traceback is above"),
        (wait_or_die, "the process of rank 1 was ended by SIGKILL"),
        (complain_or_die, "the process of rank 1 was ended by SIGKILL"),
    ],
)
def test_the_failure_of_one_rank_ends_all(tmp_path: Path, function, told: str) -> None:
    with pytest.raises(UserError, match=told):
        run_ranks(function, 2, tmp_path, environment={})
    assert not any(is_alive(pid) for pid in pids(tmp_path))


def run_until_interrupted(folder: Path) -> None:
    """Also where the tests run in the background, which ignores interruptions."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_ranks(wait_forever, 2, folder, environment={})


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ranks_end_with_their_parent(tmp_path: Path, end: signal.Signals) -> None:
    parent = fork.Process(target=run_until_interrupted, args=(tmp_path,))
    parent.start()
    pids(tmp_path)
    os.kill(parent.pid, end)
    parent.join(60)
    assert parent.exitcode
    assert_all_end(tmp_path)


def test_a_taken_port_is_refused_and_a_free_one_found() -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is not free"):
            address_of(f"tcp://localhost:{port}")
        assert address_of(None) != f"tcp://localhost:{port}"
    assert address_of(f"tcp://localhost:{port}") == f"tcp://localhost:{port}"
