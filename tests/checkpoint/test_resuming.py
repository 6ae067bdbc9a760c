"""A run whose last checkpoint is damaged goes on from the newest whole one beside it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Callable

import pytest
import torch
from averages import Runs
from checkpoints import refusal

from speechprune.checkpoint import read
from speechprune.checkpoint.resuming import mend_last
from speechprune.rewriting.averaging import average

LAST = "checkpoint_last.pt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def folder(runs: Runs, tmp_path: Path) -> Path:
    """Of checkpoints: those of 2, 4 and 6 updates, and the mean of all; the last is that of 6."""
    for updates in (4, 2, 6):
        runs.save(tmp_path, f"checkpoint_{updates}_{updates}.pt", updates)
    runs.save(tmp_path, LAST, 6)
    average(tmp_path, by="last")
    return tmp_path / "checkpoints"


def updates_of(path: Path) -> int:
    return read(path)["optimizer_history"][-1]["num_updates"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def change_a_byte(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def interrupt(path: Path) -> None:
    """As a power cut between the first save and its copies leaves it."""
    path.rename(f"{path}.tmp")
    cut(Path(f"{path}.tmp"))


DAMAGES = (empty, cut, fill_with_zeros, change_a_byte, interrupt)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_whole_one_takes_its_place(
    folder: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(folder)
    damage(folder / LAST)
    cut(folder / "checkpoint_6_6.pt")
    (folder / "checkpoint_8_8.pt.tmp").write_bytes(b"PK\x03\x04")
    after_damage = contents(folder)
    with caplog.at_level(logging.WARNING):
        mend_last(folder / LAST)
    assert "going on from checkpoint_4_4.pt" in caplog.text and str(folder / LAST) in caplog.text
    assert "of 4 updates" in caplog.text
    after = contents(folder)
    assert after.pop(LAST) == before["checkpoint_4_4.pt"]
    # The rest is as it was, but for what was left unfinished.
    assert after == {n: c for n, c in after_damage.items() if n != LAST and n[-4:] != ".tmp"}


def test_a_whole_one_stays(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = contents(folder)
    (folder / "checkpoint_8_8.pt.tmp").write_bytes(b"")
    mend_last(folder / LAST)
    assert contents(folder) == before and not caplog.messages


def test_where_there_is_no_whole_one_nothing_takes_its_place(folder: Path) -> None:
    for path in folder.glob("checkpoint_[0-9]*"):
        empty(path)
    empty(folder / LAST)
    before = contents(folder)
    mend_last(folder / LAST)
    assert contents(folder) == before
    assert "is empty" in refusal(read, folder / LAST)


def test_a_run_without_a_last_one_begins_anew_unless_it_was_interrupted(folder: Path) -> None:
    (folder / LAST).unlink()
    before = contents(folder)
    mend_last(folder / LAST)
    mend_last(folder / "nowhere" / LAST)
    assert contents(folder) == before


def test_what_is_refused_for_another_reason_is_not_replaced(folder: Path) -> None:
    torch.save({"model": {}, "cfg": {"x": torch.nn.Linear(1, 1)}}, folder / LAST)
    before = contents(folder)
    mend_last(folder / LAST)
    assert contents(folder) == before


def test_a_pipe_is_no_checkpoint(folder: Path) -> None:
    (folder / LAST).unlink()
    os.mkfifo(folder / LAST)
    assert "is a pipe" in refusal(mend_last, folder / LAST)
    os.remove(folder / LAST)
    empty(folder / LAST)
    os.mkfifo(folder / "checkpoint_9_9.pt")
    mend_last(folder / LAST)
    assert updates_of(folder / LAST) == 6


def test_the_disk_has_it_before_its_name(folder: Path, disk: list[tuple[str, str]]) -> None:
    empty(folder / LAST)
    mend_last(folder / LAST)
    last = str(folder / LAST)
    assert disk == [("sync", f"{last}.tmp"), ("rename", last), ("sync", str(folder))]
    assert updates_of(folder / LAST) == 6
