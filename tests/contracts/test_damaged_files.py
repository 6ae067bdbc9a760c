"""Every command takes a damaged file, or refuses it in one line: a few of each kind.

`python -m benchmarks.faults` tries many more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from loop import Lab

from benchmarks import damaged_files
from benchmarks.damaged_files import FAULTS, KINDS, REFUSED, USED, Kind, trials, write_examples
from speechprune.errors import UserError
from speechprune.tools.main import Commands

NUMBER = 20


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    run = lab.train("masks", "model._name=wav2vec_ctc_st")
    (lab.folder / "examples").mkdir()
    write_examples(lab.folder / "examples", lab.wav2vec2, run.succeeded().path(), lab.data)
    return lab.folder / "examples"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_damaged_files_are_used_or_refused_in_one_line(
    examples: Path, tmp_path: Path, kind: Kind
) -> None:
    found = list(trials(kind, examples, tmp_path / "out", NUMBER, seed=0))
    assert [trial for trial in found if trial.outcome in FAULTS] == []
    assert any(trial.outcome == REFUSED for trial in found)


def _traceback(out: Path) -> None:
    raise KeyError("x")


def _unclear(out: Path) -> None:
    click.echo("Oh!")
    click.get_current_context().exit(3)


def _hung(out: Path) -> None:
    time.sleep(9)


def _executed(out: Path) -> None:
    out.parent.with_name(f"{out.parent.name}.executed").touch()


def _left_behind(out: Path) -> None:
    out.touch()
    raise UserError("not this one")


def _refused(out: Path) -> None:
    raise UserError("not this one")


@pytest.mark.parametrize(
    "act", [_traceback, _unclear, _hung, _executed, _left_behind, _refused, lambda out: None]
)
def test_faults_are_told_apart(
    act: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a command that does something of the kind when a file is not whole."""
    expected = act.__name__.strip("_").replace("_", " ") if act.__name__ != "<lambda>" else USED
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "file.txt").write_text("whole")

    @click.command()
    @click.argument("file", type=click.Path(path_type=Path))
    @click.argument("out", type=click.Path(path_type=Path))
    def read(file: Path, out: Path) -> None:
        if file.read_bytes() != b"whole":
            act(out)

    monkeypatch.setattr(Commands, "get_command", lambda *_: read)
    monkeypatch.setattr(damaged_files, "commands", Commands())
    monkeypatch.setattr(damaged_files, "PATIENCE", 1)
    kind = Kind(("file.txt",), ("read {file} {out}",))
    found = list(trials(kind, tmp_path / "whole", tmp_path / "scratch", 2, seed=0))
    assert [trial.outcome for trial in found] == [expected] * 2
    assert (tmp_path / "whole" / "file.txt").read_text() == "whole"
