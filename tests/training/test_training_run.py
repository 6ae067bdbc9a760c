"""Training runs in processes of their own: what is told of those that fail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from speechprune.errors import UserError
from speechprune.training import run as module
from speechprune.training.run import TrainingRun


def test_the_reason_of_a_failure_is_that_of_this_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has those of earlier attempts too."""
    run = TrainingRun("dense", tmp_path / "dense", "demo/nano", (), 2)

    def failure(words: str) -> str:
        def write(command: list[str], *, stdout: Any, **options: Any) -> int:
            os.write(stdout.fileno(), words.encode())
            return 1

        monkeypatch.setattr(module, "run_child", write)
        with pytest.raises(UserError) as refused:
            run.finish({})
        return str(refused.value)

    told = f"dense: training failed{{}}; see {run.log}"
    assert failure("speechprune: error: no such data\n") == told.format(" (no such data)")
    assert failure("Traceback: killed\n") == told.format("")
    assert failure("speechprune: error: disk full\n") == told.format(" (disk full)")
    long = "x" * 2**15 + "\nspeechprune: error: at last\n"
    assert failure(long) == told.format(" (at last)")
