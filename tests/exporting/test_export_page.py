"""The code on the page about exported files runs beside one."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
from exported_models import Pair, Workshop
from readme import readme_snippet

from speechprune.models.loading import load_recogniser


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Workshop(tmp_path_factory.mktemp("page")).pair("hubert")


@pytest.fixture
def beside(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """The file under the name that the page gives it, in the folder that we are in."""
    shutil.copy(pair.path, tmp_path / "best.onnx")
    monkeypatch.chdir(tmp_path)
    return pair


def test_onnxruntime(beside: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the symbols of a second of silence."""
    exec(readme_snippet("ONNX"), {})
    symbols = ast.literal_eval(capsys.readouterr().out)
    loaded = load_recogniser(beside.checkpoint)
    assert len(symbols) == loaded.frame_count(16000)
    assert set(symbols) <= set(loaded.dictionary.symbols)


def test_openvino(beside: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="openvino is missing, which nothing else needs")
    exec(readme_snippet("OpenVINO"), {})
    loaded = load_recogniser(beside.checkpoint)
    expected = [1, loaded.frame_count(16000), len(loaded.dictionary)]
    assert list(ast.literal_eval(capsys.readouterr().out.strip())) == expected
