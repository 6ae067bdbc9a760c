"""`speechprune prepare`: a corpus from one line, or one line about what is wrong."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from speechprune.manifests.check import check_split
from speechprune.tools.main import commands

SIZES = ("--train", "4", "--valid", "1", "--test", "2")


def prepare(*arguments: str) -> Result:
    return CliRunner().invoke(commands, ["prepare", *arguments], prog_name="speechprune")


def test_synthetic_gives_what_was_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    options = ("--language", "it", "--language", "sw", "--vocabulary", "20", "--seed", "9")
    result = prepare("synthetic", "--out", str(out), *SIZES, *options, "--workers", "2")
    assert result.exit_code == 0, result.output
    found = [check_split(out, name).utterances for name in ("train", "valid", "test")]
    assert found == [4, 1, 2]
    settings = json.loads((out / "provenance.json").read_text())["settings"]
    assert (settings["languages"], settings["vocabulary"], settings["seed"]) == (
        ["it", "sw"],
        20,
        9,
    )


def test_digits_gives_what_was_asked_for(tmp_path: Path, shared_data: Path) -> None:
    archive = str(shared_data / "fsdd" / "fsdd-5speakers.tar")
    out = tmp_path / "corpus"
    assert prepare("digits", "--out", str(out), "--archive", archive, *SIZES).exit_code == 0
    assert check_split(out, "test").utterances == 2
    assert len((out / "test.spk").read_text().splitlines()) == 2
    again = prepare("digits", "--out", str(out), "--archive", archive, *SIZES, "--overwrite")
    assert again.exit_code == 0
    assert os.listdir(tmp_path) == ["corpus"]


def empty_archive(folder: Path) -> str:
    with tarfile.open(folder / "empty.tar", "w"):
        return str(folder / "empty.tar")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("synthetic", "--out", "{folder}"), "exists and is not a prepared corpus"),
        (("synthetic", "--out", "{folder}", "--overwrite"), "not a prepared corpus"),
        (("synthetic", "--out", "{folder}/new", "--language", "tlh"), "tlh"),
        (("synthetic", "--out", "{folder}/new", "--train", "0"), "--train"),
        (("digits", "--out", "{folder}/new", "--archive", "{folder}/no.tar"), "no.tar is missing"),
        (("digits", "--out", "{folder}/new", "--archive", "{archive}"), "holds no recording"),
        (("digits", "--out", "{folder}/new"), "--archive"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    names = {"folder": str(tmp_path), "archive": empty_archive(tmp_path)}
    result = prepare(*(argument.format(**names) for argument in arguments))
    assert result.exit_code != 0
    assert complaint in result.stderr
    assert result.stderr.startswith("speechprune: error: ") and result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["empty.tar"]
