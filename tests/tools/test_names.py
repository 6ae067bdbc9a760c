"""Names of files that are too long, or no text: used where they can be, else told in a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from corpora import noise, write_kaldi
from manifest_folders import write_folder

from speechprune.tools.main import commands
from speechprune.training.failures import user_message

LONG = "x" * 300
NO_TEXT = os.fsdecode(b"caf\xe9")
KALDI = ["prepare", "kaldi", "--language", "en", "--workers", "1"]
SIZES = ["--train", "1", "--valid", "1", "--test", "1"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Kaldi data in `kaldi` and manifests in `good` and under a name of bytes."""
    monkeypatch.chdir(tmp_path)
    write_kaldi(tmp_path / "kaldi")
    write_folder(tmp_path / "good")
    (tmp_path / NO_TEXT).mkdir()
    for file in (tmp_path / "good").iterdir():
        if file.is_file():
            (tmp_path / NO_TEXT / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        [*KALDI, LONG, "--out", "out"],
        [*KALDI, "kaldi", "--out", LONG],
        [*KALDI, "kaldi", "--out", f"good/{LONG}/out"],
        [*KALDI, "kaldi", "--out", NO_TEXT + "2"],
        ["prepare", "librispeech", LONG, "--out", "out"],
        ["prepare", "aishell", LONG, "--out", "out"],
        ["prepare", "common-voice", f"{LONG}/en", "--out", "out"],
        ["prepare", "digits", "--archive", LONG, "--out", "out"],
        ["prepare", "synthetic", *SIZES, "--out", LONG],
        ["prepare", "synthetic", *SIZES, "--out", NO_TEXT + "2"],
        ["manifest", "check", LONG],
        ["manifest", "stats", LONG],
        ["manifest", "stats", "good", "--figure", f"{LONG}.png"],
        ["manifest", "subset", "good", LONG, "--split", "train", "--minutes", "0.001"],
        ["manifest", "subset", "good", NO_TEXT + "2", "--split", "train", "--minutes", "0.001"],
        ["transcribe", LONG, "a.wav"],
    ],
)
def test_one_line_tells(here: Path, words: list[str]) -> None:
    before = sorted(os.listdir(here))
    result = CliRunner().invoke(commands, words, prog_name="speechprune")
    assert result.exit_code == 1
    assert result.stderr.startswith("speechprune: error: ") and result.stderr.count("\n") == 1
    assert LONG in result.stderr or "too long" in result.stderr or "not UTF-8" in result.stderr
    assert sorted(os.listdir(here)) == before


def test_what_can_be_used_is_used(here: Path) -> None:
    digits = here / (NO_TEXT + " digits")
    for digit in range(10):
        for index in (0, 5, 10):
            noise(here / "a.wav", 0.1, 8000)
            digits.mkdir(exist_ok=True)
            (here / "a.wav").rename(digits / f"{digit}_ann_{index}.wav")
    for words in (
        ["prepare", "digits", "--archive", digits.name, "--out", "out", *SIZES],
        ["prepare", "digits", "--archive", digits.name, "--out", "out", *SIZES, "--resume"],
        ["manifest", "check", NO_TEXT],
    ):
        result = CliRunner().invoke(commands, words, prog_name="speechprune")
        assert result.exit_code == 0, result.output
    provenance = json.loads((here / "out/provenance.json").read_text(encoding="utf-8"))
    assert provenance["archive"] == digits.name


def test_bytes_of_a_name_are_escaped_in_print(here: Path) -> None:
    code = b"from speechprune.tools.main import main; main()"
    words = [os.fsencode(sys.executable), b"-c", code, b"manifest", b"check", b"caf\xe9", b"--json"]
    ran = subprocess.run(words, capture_output=True, check=True, timeout=60)
    assert b"caf\\udce9" in ran.stdout
    assert json.loads(ran.stdout)["folder"] == NO_TEXT


def test_the_line_that_is_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        (tmp_path / "a").write_text(f"one\n{NO_TEXT}\ntwo\n", encoding="utf-8")
    message = user_message(caught.value)
    assert message is not None and repr(NO_TEXT) in message and "two" not in message
    with pytest.raises(UnicodeEncodeError) as caught:
        "é".encode("ascii")
    assert user_message(caught.value) is None
