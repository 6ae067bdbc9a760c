"""A folder has one writer at a time: another one is named, and a dead one is none."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from speechprune.errors import UserError
from speechprune.locks import LOCK, give_back_kept, keep, locked

HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from speechprune.locks import locked
with locked(Path(sys.argv[1])) as descriptor:
    if "program" in sys.argv:
        subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
    # A worker says it, once it has let go of the lock.
    if "worker" not in sys.argv or os.fork() == 0:
        print("locked", flush=True)
    time.sleep(60)
"""


def hold(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Another process that has the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def is_free(folder: Path) -> bool:
    try:
        with locked(folder):
            return True
    except UserError:
        return False


@pytest.mark.parametrize("options", [(), ("worker",)])
def test_the_holder_is_named_and_its_death_frees_the_folder(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    other = hold(tmp_path, *options)
    try:
        named = f"process {other.pid} on {socket.gethostname()}"
        with pytest.raises(UserError, match=f"another process is writing to .*{named}"):
            with locked(tmp_path):
                pass
        os.kill(other.pid, signal.SIGKILL)  # a worker of it lives on
        other.wait()
        assert is_free(tmp_path) and not list(tmp_path.iterdir())
    finally:
        os.killpg(other.pid, signal.SIGKILL) if options else other.kill()


def test_a_program_that_got_the_lock_outlives_its_parent_with_it(tmp_path: Path) -> None:
    other = hold(tmp_path, "program")
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert not is_free(tmp_path)
    os.killpg(other.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not is_free(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_free(tmp_path)


def test_not_twice_in_one_process_either(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with locked(folder):
        assert not is_free(folder) and is_free(tmp_path)
    assert is_free(folder)


def test_with_patience_it_waits_for_the_other_to_end(tmp_path: Path) -> None:
    other = hold(tmp_path)
    Timer(0.5, other.kill).start()
    with pytest.raises(UserError, match="another process"), locked(tmp_path, patience=0.1):
        pass
    with locked(tmp_path, patience=60):
        assert other.wait() == -signal.SIGKILL


def test_the_lock_of_a_folder_made_anew_is_left_to_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK).unlink()
        other = hold(tmp_path)
    try:
        assert not is_free(tmp_path)
    finally:
        other.kill()


def test_what_is_kept_is_kept_until_it_is_given_back(tmp_path: Path) -> None:
    keep(tmp_path)
    keep(tmp_path / ".")
    assert not is_free(tmp_path)
    give_back_kept()
    assert is_free(tmp_path)


def test_without_locks_it_is_warned_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        pass
    assert f"{tmp_path} is on a file system without locks" in caplog.text


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made a folder"):
        with locked(tmp_path / "file"):
            pass
    (tmp_path / LOCK).symlink_to(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written to"):
        with locked(tmp_path):
            pass
