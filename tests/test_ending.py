"""Commands that are asked to end: what they started ends first, then they do, in one line."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import pytest

from speechprune.ending import run_child
from speechprune.tools import main as tools
from speechprune.training.rounds import finish_all

fork = multiprocessing.get_context("fork")

#: What a command starts: it tells its id, ends only a moment after it is asked to, and tells that.
CHILD = """
import os, pathlib, signal, sys, time
def leave(number, frame):
    time.sleep(0.2)
    pathlib.Path(sys.argv[1] + ".ended").touch()
    sys.exit()
signal.signal(signal.SIGTERM, leave)
file = pathlib.Path(sys.argv[1] + ".new")
file.write_text(str(os.getpid()))
file.rename(sys.argv[1])
time.sleep(600)
"""


@dataclass(frozen=True)
class Waiting:
    """A round that runs until it is ended."""

    target: Path
    name: str = "waiting"
    needs: tuple[Path, ...] = ()
    is_begun: bool = False
    is_done: bool = False

    @property
    def makes(self) -> Path:
        return self.target

    def finish(self, environment: object) -> None:
        wait_for_child(self.target)


def wait_for_child(file: Path) -> None:
    run_child([sys.executable, "-c", CHILD, str(file)])


def wait_for_rounds(folder: Path) -> None:
    finish_all([[Waiting(folder / "0")], [Waiting(folder / "1")]], jobs=2)


def wait_alone(folder: Path) -> None:
    wait_for_child(folder / "0")


def run_command(action: Callable[[], None], errors: Path) -> None:
    """`speechprune` with one command, in a process of its own."""
    for number in (signal.SIGINT, signal.SIGHUP):  # tests may run in the background
        signal.signal(number, signal.SIG_DFL)
    sys.stderr = open(errors, "w", encoding="utf-8")
    command = click.Command("wait", callback=action)
    tools.Commands.get_command = lambda *_: command  # type: ignore[assignment, method-assign]
    sys.argv = ["speechprune", "wait"]
    tools.main()


def pid_in(file: Path) -> int:
    """The id that a child wrote, once it has: a file exists before it is written."""
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(file.read_text())


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGINT, "interrupted"),
        (signal.SIGHUP, "ended by SIGHUP"),
    ],
)
@pytest.mark.parametrize(("action", "count"), [(wait_for_rounds, 2), (wait_alone, 1)])
def test_a_command_ends_what_it_started(
    tmp_path: Path,
    action: Callable[[Path], None],
    count: int,
    number: signal.Signals,
    line: str,
) -> None:
    process = fork.Process(target=run_command, args=(partial(action, tmp_path), tmp_path / "err"))
    process.start()
    children = [pid_in(tmp_path / str(child)) for child in range(count)]
    assert process.pid is not None
    os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGTERM)  # as a signal to the whole job would
    process.join(60)
    assert process.exitcode == 128 + number
    assert (tmp_path / "err").read_text() == f"speechprune: error: {line}\n"
    for child, pid in enumerate(children):
        assert (tmp_path / f"{child}.ended").exists()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def lose(times: int, folder: Path) -> None:
    """Keep an exception to itself, as callbacks from C do, so many times."""
    for _ in range(times):
        try:
            (folder / "0").write_text("0")
            time.sleep(60)
        except KeyboardInterrupt:
            (folder / "lost").touch()
    time.sleep(60)


def test_a_request_that_was_lost_is_repeated(tmp_path: Path) -> None:
    process = fork.Process(target=run_command, args=(partial(lose, 2, tmp_path), tmp_path / "err"))
    process.start()
    pid_in(tmp_path / "0")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 143 and (tmp_path / "lost").exists()
    assert (tmp_path / "err").read_text() == "speechprune: error: ended by SIGTERM\n"


def clean_up(folder: Path) -> None:
    """Takes longer than it takes to repeat a request, and fails once on its way."""
    try:
        (folder / "0").write_text("0")
        time.sleep(60)
    finally:
        try:
            raise ValueError
        except ValueError:
            time.sleep(1.5)
        (folder / "clean").touch()


def test_cleaning_up_is_not_interrupted_by_repeats(tmp_path: Path) -> None:
    process = fork.Process(target=run_command, args=(partial(clean_up, tmp_path), tmp_path / "err"))
    process.start()
    pid_in(tmp_path / "0")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 143 and (tmp_path / "clean").exists()


def test_whoever_asks_again_later_ends_it_at_once(tmp_path: Path) -> None:
    process = fork.Process(target=run_command, args=(partial(lose, 60, tmp_path), tmp_path / "err"))
    process.start()
    pid_in(tmp_path / "0")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(2.2)
    assert process.exitcode is None and (tmp_path / "lost").exists()
    os.kill(process.pid, signal.SIGTERM)
    process.join(10)
    assert process.exitcode == -signal.SIGTERM


def hang_up_under_nohup(file: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    tools.end_on_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    file.touch()


def test_what_is_ignored_stays_so(tmp_path: Path) -> None:
    process = fork.Process(target=hang_up_under_nohup, args=(tmp_path / "on",))
    process.start()
    process.join(60)
    assert process.exitcode == 0 and (tmp_path / "on").exists()
