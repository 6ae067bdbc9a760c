"""Whoever imports the library keeps the logging that it had; fairseq alone would change it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import importlib, logging, sys
importlib.import_module(sys.argv[1])
assert "fairseq.tasks" in sys.modules
print(logging.getLogger().level == logging.WARNING, logging.getLogger().handlers)
"""


@pytest.mark.parametrize(
    "module",
    [
        "speechprune.plugin",
        "speechprune.checkpoint",
        "speechprune.models.loading",
        "speechprune.models.declaration",
        "speechprune.rewriting.folding",
        "speechprune.training.launch",
    ],
)
def test_the_root_logger_is_left_alone(module: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, module], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "True []\n"), ran.stderr
    assert ran.stderr == ""
