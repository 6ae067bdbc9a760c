"""What tests of distillation share."""

from __future__ import annotations

from pathlib import Path

import pytest
from distill_bench import Bench, bench_of
from loop import Lab
from nano import write_wav2vec2


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("distill"))


@pytest.fixture(scope="module")
def teacher(lab: Lab) -> Path:
    """Of other weights than the student."""
    return write_wav2vec2(lab.folder / "teacher.pt", layers=2, seed=5)


@pytest.fixture(scope="module")
def bench(lab: Lab) -> Bench:
    return bench_of(lab)
