"""Worker processes: results in order, and started so that a GPU in use does no harm."""

from __future__ import annotations

import sys

import pytest
import torch

from speechprune.manifests.processes import spread

PARENTS_OWN: list[str] = []


def inherited(task: int) -> tuple[int, list[str]]:
    """What a process has of its parent's memory: nothing if it was started anew."""
    return task, PARENTS_OWN


@pytest.mark.parametrize("uses_gpu", [False, True])
def test_nothing_is_forked_once_a_gpu_is_used(
    monkeypatch: pytest.MonkeyPatch, uses_gpu: bool
) -> None:
    """CUDA does not survive a fork."""
    monkeypatch.setitem(globals(), "PARENTS_OWN", ["set in the parent"])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: uses_gpu)
    found = list(spread(inherited, range(20), workers=2))
    assert [task for task, _ in found] == list(range(20))
    forks = sys.version_info < (3, 14) and sys.platform == "linux"
    kept = PARENTS_OWN if forks and not uses_gpu else []
    assert [memory for _, memory in found] == 20 * [kept]


def test_without_torch_nothing_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    assert list(spread(abs, [-1, 2], workers=2)) == [1, 2]
    assert "torch" not in sys.modules
