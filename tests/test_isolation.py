"""Tests and what they start have no GPU unless they are marked, and an environment of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from conftest import without_gpu
from forking import start

from speechprune.decoding.inference import best_device


def report() -> None:
    print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("OF_THIS_TEST"), best_device())


def forked(log: Path) -> str:
    process = start(log, report)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return log.read_text().splitlines()[-1]


def test_a_machine_with_a_gpu_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert best_device().type == "cuda"
    with without_gpu():
        assert best_device().type == "cpu" and torch.cuda.device_count() == 0
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert best_device().type == "cuda" and os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_this_test_and_what_it_starts_see_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forks come from a process that started before, maybe in a test that has the GPU."""
    assert forked(tmp_path / "first") == " None cpu"
    monkeypatch.setenv("OF_THIS_TEST", "yes")
    assert forked(tmp_path / "second") == " yes cpu"
