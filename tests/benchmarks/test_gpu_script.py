"""`benchmarks/gpu.sh`: every part runs, whatever became of the one before."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.sh"

#: Stands in for Python: says what it was asked, and ends as a part is told to.
STAND_IN = """#!/bin/sh
echo "asked: $*"
case "$*" in
    *$FAILING*) exit 3 ;;
esac
"""

PARTS = [
    "tests marked cuda",
    "a step, 10 and 75 s",
    "a step, 300 s",
    "similarity, verification",
    "slim models",
]


def run(folder: Path, failing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)
    environment = {**os.environ, "PYTHON": str(folder / "python"), "FAILING": failing}
    command = [str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("failing", "lost"), [("nothing", []), ("--check", PARTS[1:2])])
def test_a_part_that_fails_does_not_lose_the_rest(
    tmp_path: Path, failing: str, lost: list[str]
) -> None:
    ran = run(tmp_path, failing, "-", "--device", "cpu", "--quick")
    summary = ran.stdout.partition("== all parts\n")[2].splitlines()
    assert [line[:24].strip() for line in summary] == PARTS
    assert [line[:24].strip() for line in summary if "FAILED with 3" in line] == lost
    assert ran.returncode == bool(lost) and ran.stderr == ""
    asked = re.findall("asked: (.*)", ran.stdout)
    assert "pytest -m cuda" in asked[0]
    assert all(line.endswith(" --device cpu --quick") for line in asked[1:])
    assert "train_step --seconds 10 --seconds 75 --check" in asked[1]


def test_it_ends_if_nothing_can_be_installed(tmp_path: Path) -> None:
    ran = run(tmp_path, "venv", str(tmp_path))
    assert ran.returncode == 1 and "installing" in ran.stdout and "pytest" not in ran.stdout


def test_all_parts_take_six_minutes_at_most(tmp_path: Path) -> None:
    ran = run(tmp_path, "venv", str(tmp_path)).stdout + run(tmp_path, "nothing", "-").stdout
    seconds = [int(number) for number in re.findall("at most ([0-9]+) s", ran)]
    assert len(seconds) == 1 + len(PARTS)
    assert sum(seconds) + 4 * len(seconds) <= 360


def test_without_wheels_it_tells_how_it_is_used(tmp_path: Path) -> None:
    ran = run(tmp_path, "nothing")
    assert ran.returncode == 2 and "benchmarks/gpu.sh WHEELS" in ran.stderr and not ran.stdout
