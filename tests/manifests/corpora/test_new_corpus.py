"""The corpus of the how-to is one file: dropped into the folder, `prepare` knows it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from corpora import noise
from readme import readme_snippet

from speechprune.manifests import corpora
from speechprune.manifests.corpora import CORPORA
from speechprune.manifests.manifest import read_split
from speechprune.manifests.report import check_folder
from speechprune.tools.main import commands


@pytest.fixture(autouse=True)
def with_the_example(tmp_path: Path) -> Iterator[None]:
    """The file as if it lay in the folder of corpora."""
    (tmp_path / "plugged").mkdir()
    snippet = readme_snippet("Add a corpus")
    (tmp_path / "plugged/lj_speech.py").write_text(snippet, encoding="utf-8")
    CORPORA.names()  # so that all others are known, and stay so
    parts, path = dict(CORPORA._parts), list(corpora.__path__)
    corpora.__path__.append(str(tmp_path / "plugged"))
    CORPORA._walked = False
    yield
    CORPORA._parts, corpora.__path__[:] = parts, path
    sys.modules.pop(f"{corpora.__name__}.lj_speech", None)


def prepare(*words: str | Path) -> Result:
    return CliRunner().invoke(commands, ["prepare", *map(str, words)])


def write_lj_speech(root: Path) -> Path:
    for name in ("LJ001-0001", "LJ001-0002"):
        noise(root / f"wavs/{name}.wav", 0.5, 22050)
    rows = ["LJ001-0001|Dr. No, 2 times|Doctor No, two times", "LJ001-0002|Yes.|Yes."]
    (root / "metadata.csv").write_text("".join(f"{row}\n" for row in rows))
    return root


def test_it_is_prepared_from_end_to_end(tmp_path: Path) -> None:
    words = ["--out", tmp_path / "out", "--split", "all", "--workers", "1"]
    result = prepare("lj-speech", write_lj_speech(tmp_path / "in"), *words)
    assert result.exit_code == 0, result.output
    assert "2 of 2 converted to FLAC" in result.output
    report = check_folder(tmp_path / "out")
    assert not report.errors, report.describe_in_words()
    utterances = read_split(tmp_path / "out", "all").utterances
    assert [u.text for u in utterances] == ["DOCTOR NO TWO TIMES", "YES"]
    assert {u.speaker for u in utterances} == {"LJ"}


def test_it_is_listed_with_its_options() -> None:
    assert re.search(r"lj-speech +LJ Speech \(LJSpeech-1.1\): English", prepare("--help").output)
    told = prepare("lj-speech", "--help").output
    assert "--split TEXT" in told and "Name of the split.  [default: train]" in told


def test_its_mistakes_get_one_line(tmp_path: Path) -> None:
    root = write_lj_speech(tmp_path / "in")
    (root / "metadata.csv").write_text("LJ001-0001|one column too few\n")
    result = prepare("lj-speech", root, "--out", tmp_path / "out")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "metadata.csv line 1 in train, which has 2 columns, not 3" in result.output
    assert not (tmp_path / "out").exists()
