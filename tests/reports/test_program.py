"""The digest of the program: of all of its sources, and of nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import speechprune
from speechprune import manifests
from speechprune.reports.program import program_digest


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a small program, in the place of the real one."""
    for package, name in ((speechprune, "plugin"), (manifests, "manifests")):
        write(tmp_path / name / "__init__.py", "")
        monkeypatch.setattr(package, "__path__", [str(tmp_path / name)])
    write(tmp_path / "plugin" / "decoding" / "beam.py", "a = 1\n")
    write(tmp_path / "manifests" / "labels.py", "b = 2\n")
    yield tmp_path
    program_digest.cache_clear()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def now() -> str:
    program_digest.cache_clear()
    return program_digest()


def test_each_source_counts(sources: Path) -> None:
    found = {now()}
    beam, labels = sources / "plugin/decoding/beam.py", sources / "manifests/labels.py"
    write(beam, "a = 2\n")
    found.add(now())
    write(labels, "b = 3\n")
    found.add(now())
    labels.rename(labels.with_name("lines.py"))
    found.add(now())
    write(sources / "plugin" / "new.py", "")
    found.add(now())
    beam.unlink()
    found.add(now())
    assert len(found) == 6


def test_nothing_else_counts(sources: Path) -> None:
    before = now()
    beam = sources / "plugin/decoding/beam.py"
    write(sources / "plugin/decoding/__pycache__/beam.cpython-311.pyc", "x")
    write(sources / "plugin/assets/report.css", "x")
    os.utime(beam, (1, 1))
    text = beam.read_text()
    beam.unlink()  # and at another place in its folder
    write(sources / "plugin/decoding/notes.md", "x")
    write(beam, text)
    assert now() == before


def test_it_is_the_same_in_each_process_and_computed_when_asked_for() -> None:
    script = (
        "import speechprune.reports.runs, speechprune.reports.program as p\n"
        "assert p.program_digest.cache_info().currsize == 0\n"
        "print(p.program_digest())"
    )
    for seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == now()
