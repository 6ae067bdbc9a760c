"""`speechprune recipe` on the command line: help, a real run, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from nano import write_corpus, write_wav2vec2

from speechprune.recipes import RECIPES
from speechprune.tools.main import commands


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    write_corpus(folder / "data")
    write_wav2vec2(folder / "model.pt")
    return folder


def run(folder: Path, name: str, *arguments: str) -> tuple[int, str]:
    """The exit code, and what was printed, errors included."""
    shared = ["--model", str(folder / "model.pt"), "--out", str(folder / "out")]
    result = CliRunner().invoke(commands, ["recipe", name, *shared, *arguments])
    return result.exit_code, result.output


def test_help_names_every_recipe(files: Path) -> None:
    listed = CliRunner().invoke(commands, ["recipe", "--help"]).output
    assert all(f"  {name} " in listed for name in RECIPES)
    code, text = run(files, "imp", "--help")
    assert code == 0 and "--step" in text and "--source" not in text


def test_a_real_run(files: Path) -> None:
    """The only one here in a process of its own, as users have it."""
    code, output = run(
        files,
        "parp",
        *("--data", str(files / "data"), "--config-name", "demo/nano"),
        *("--sparsity", "0.4", "--updates", "2", "--json", "model.prune_every=1"),
    )
    assert code == 0, output
    first, second, rest = output.split("\n", 2)
    assert first == "parp: 1 round, 1 training of 2 updates"
    log = files / "out" / "parp-0.4" / "train.log"
    assert second == f"round 1 of 1: parp-0.4, 2 updates; its log is {log}" and log.exists()
    (summary,) = json.loads(rest)
    assert (summary["label"], summary["updates"], summary["sparsity"]) == ("PARP", 2, 0.4)
    assert Path(summary["checkpoint"]).exists()
    assert summary["rounds"][0]["seconds"] > 0


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("parp", "--sparsity 1", "must lie in [0, 1), not 1.0"),
        ("parp", "--sparsity -0.5", "must lie in [0, 1), not -0.5"),
        ("parp", "", "Missing option '--sparsity'"),
        ("parp", "--sparsity 0.5 optimization.max_update=5", "use --updates"),
        ("parp", "--sparsity 0.5 model._name=wav2vec_ctc", "choose another recipe"),
        ("parp", "--sparsity 0.5 --config-name base_2h", "unknown config 'base_2h'"),
        ("parp", "--sparsity 0.5 --updates 0", "0 is not in the range"),
        ("imp", "--sparsity 0.5 --step 0", "step is the share removed per round"),
        ("transfer", "--sparsity 0.5", "Missing option '--source'"),
        ("park", "--sparsity 0.5", "No such command 'park'"),
    ],
)
def test_bad_input(files: Path, name: str, arguments: str, message: str) -> None:
    code, output = run(files, name, "--data", str(files / "data"), *arguments.split())
    assert code != 0 and message in output, output
    assert output.count("\n") == 1, output


def test_joint_needs_languages(files: Path) -> None:
    one = str(files / "data")
    code, output = run(files, "joint", "--sparsity", "0.5", "--language", one)
    assert code != 0 and "give two or more --language" in output and output.count("\n") == 1


def test_training_that_fails_names_its_log(files: Path) -> None:
    data = ("--data", str(files / "data"), "--config-name", "demo/nano", "--updates", "2")
    code, output = run(files, "dense", *data, "model.dropot=0.1")
    assert code != 0 and output.splitlines()[-1].startswith("speechprune: error: dense: training")
    assert "did you mean 'model.dropout'" in (files / "out/dense/train.log").read_text()
