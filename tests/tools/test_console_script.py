"""The console script, in a process of its own: what holds before the package is imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import speechprune

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "speechprune_command.py"

#: In the place of fairseq: tells that it is imported, and warns as newer versions of torch do.
SLOW = """
import pathlib, time, warnings
warnings.warn("torch.something is deprecated", FutureWarning)
pathlib.Path("importing").touch()
time.sleep({seconds})
"""


def environment(folder: Path, seconds: float) -> dict[str, str]:
    """One where the import of fairseq takes a while, and ends there."""
    (folder / "fairseq").mkdir()
    slow = SLOW.format(seconds=seconds) + "\nraise SystemExit(7)\n"
    (folder / "fairseq" / "__init__.py").write_text(slow, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": ""}


def start(folder: Path, seconds: float, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment(folder, seconds),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Whoever starts tests in the background has them ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_an_interrupt_while_fairseq_is_imported_is_one_line(tmp_path: Path) -> None:
    process = start(tmp_path, 30, str(SCRIPT), "average", "run")
    while not (tmp_path / "importing").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "speechprune: error: interrupted\n")


@pytest.mark.parametrize(
    "command", [(str(SCRIPT), "average", "run"), ("-c", "import speechprune.plugin")]
)
def test_warnings_of_imports_are_hidden_from_commands_alone(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    process = start(tmp_path, 0, *command)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 7
    assert ("FutureWarning" in err) == (command[0] == "-c")


def test_the_script_runs_the_commands(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), "--version"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == f"speechprune, version {speechprune.__version__}\n"
