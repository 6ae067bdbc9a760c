"""Each corpus by its command: a checked folder, from which a training run starts."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import pytest
import soundfile
from click.testing import CliRunner, Result
from corpora import (
    REAL_MP3,
    noise,
    write_aishell,
    write_common_voice,
    write_kaldi,
    write_libri_light,
    write_librispeech,
)
from loop import Lab

from speechprune.manifests.report import check_folder
from speechprune.tools.main import commands

SIZES = ("--train", "4", "--valid", "2", "--test", "1")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("corpora"))


def run(*words: str | Path) -> Result:
    """`speechprune prepare` with ``words``."""
    return CliRunner().invoke(commands, ["prepare", *map(str, words)])


def succeed(*words: str | Path) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.output


def write_digits(path: Path) -> Path:
    """An archive like FSDD's: a speaker, ten digits, eleven recordings of each."""
    with tarfile.open(path, "w") as tar:
        for digit in range(10):
            for index in range(11):
                name = f"fsdd/{digit}_ann_{index}.flac"
                tar.add(noise(path.parent / f"parts/{digit}{index}.flac", 0.2, 8000), name)
    return path


def common_voice(root: Path) -> Path:
    """A release of which one clip is real, where the real one is at hand."""
    rows = {
        "train": [("ann", "Ça va, l’été ?"), ("bob", "Oui — non!")],
        "dev": [("cid", "Non.")],
        "test": [("dan", "Oui oui!")],
    }
    write_common_voice(root, {**rows, "validated": [row for r in rows.values() for row in r]})
    if REAL_MP3.exists():
        (root / "clips/common_voice_xx_0.mp3").write_bytes(REAL_MP3.read_bytes())
    return root


@dataclass(frozen=True)
class Case:
    """A command, what writes its corpus, its options, and splits to train and validate on."""

    command: str
    write: Callable[[Path], Path]
    options: str
    train: str
    valid: str


CASES = {
    "librispeech": Case("librispeech", write_librispeech, "", "train-clean-100", "dev-clean"),
    "libri-light": Case(
        "librispeech",
        write_libri_light,
        "--subset train-10m --subset train-1h",
        "train-1h",
        "train-10m",
    ),
    "characters": Case("common-voice", common_voice, "--language fr", "train", "dev"),
    "phones": Case("common-voice", common_voice, "--language fr --labels phones", "train", "test"),
    "aishell": Case("aishell", write_aishell, "", "train", "dev"),
    "kaldi": Case("kaldi", write_kaldi, "--language en", "train", "dev"),
}


@pytest.mark.parametrize("name", CASES)
def test_training_starts_from_each_corpus(
    lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    source, out = case.write(lab.folder / f"{name} in"), lab.folder / f"{name} out"
    monkeypatch.chdir(source)
    told = succeed(case.command, source, "--out", out, "--workers", "2", *case.options.split())
    assert f"{case.train} " in told and "utterances" in told
    start_training(lab, name, out, case.train, case.valid)


@pytest.mark.parametrize("labels", ["characters", "phones"])
def test_training_starts_from_made_corpora(lab: Lab, labels: str) -> None:
    out = lab.folder / f"synthetic {labels}"
    language = "sw" if labels == "characters" else "fi"
    succeed("synthetic", "--out", out, *SIZES, "--language", language, "--labels", labels)
    start_training(lab, f"synthetic-{labels}", out, "train", "valid")


def test_words_of_any_language(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("m\u00e4ki j\u00e4rvi\nkoira", encoding="utf-8")
    words = ["--language", "fi", "--words", tmp_path / "words.txt"]
    succeed("synthetic", "--out", tmp_path / "out", *SIZES, *words)
    said = set((tmp_path / "out/train.wrd").read_text(encoding="utf-8").split())
    assert said <= {"M\u00c4KI", "J\u00c4RVI", "KOIRA"}
    both = run("synthetic", "--out", tmp_path / "new", *words, "--language", "en")
    assert both.exit_code == 1 and "words are of one language, not of fi, en" in both.output


def test_training_starts_from_digits(lab: Lab) -> None:
    archive = write_digits(lab.folder / "digits.tar")
    out = lab.folder / "digits"
    succeed(
        "digits", "--archive", archive, "--out", out, "--train", "4", "--valid", "2", "--test", "1"
    )
    start_training(lab, "digits-run", out, "train", "valid")


def start_training(lab: Lab, name: str, data: Path, train: str, valid: str) -> None:
    """Every split is sound, and fairseq trains and validates on them."""
    report = check_folder(data)
    assert not report.errors, report.describe_in_words()
    run = lab.train(
        f"run-{name}",
        f"task.data='{data}'",
        f"dataset.train_subset={train}",
        f"dataset.valid_subset={valid}",
        "dataset.max_tokens=400000",
        updates=2,
    ).succeeded()
    (validated,) = run.records(valid)
    assert float(validated[f"{valid}_loss"]) > 0


def test_labels_and_provenance_of_common_voice(lab: Lab, tmp_path: Path) -> None:
    told = succeed("common-voice", common_voice(tmp_path / "fr"), "--out", tmp_path / "out")
    assert (tmp_path / "out/train.wrd").read_text(encoding="utf-8") == "ÇA VA L'ÉTÉ\nOUI NON\n"
    listed = (tmp_path / "out/dict.ltr.txt").read_text(encoding="utf-8").splitlines()
    assert "".join(line.split()[0] for line in listed) == "'AILNOTUV|ÇÉ"
    assert "characters dropped: " in told and "'?' 1" in told
    provenance = json.loads((tmp_path / "out/provenance.json").read_text(encoding="utf-8"))
    assert provenance["language"] == "fr" and provenance["converted"] == 4
    assert provenance["dropped_characters"]["!"] == 2
    assert provenance["splits"]["train"]["utterances"] == 2
    if REAL_MP3.exists():
        frames = soundfile.info(tmp_path / "out/audio/clips/common_voice_xx_0.flac").frames
        assert frames == pytest.approx(2.376 * 16000, abs=2)


def test_mandarin_is_spelt_by_character(tmp_path: Path) -> None:
    succeed("aishell", write_aishell(tmp_path / "in"), "--out", tmp_path / "out")
    assert (tmp_path / "out/dev.ltr").read_text(encoding="utf-8") == "而 对 楼 市\n" * 2
    assert "|" not in (tmp_path / "out/dict.ltr.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["librispeech", "gone", "--out", "out"], "no folder "),
        (["librispeech", "empty", "--out", "out"], "is not LibriSpeech: looked for"),
        (["common-voice", "empty", "--language", "fr", "--out", "out"], "looked for clips and"),
        (["common-voice", "empty", "--out", "out", "--language", "?"], "is not an ISO code"),
        (["aishell", "empty", "--out", "out"], "is not AISHELL-1"),
        (["kaldi", "empty", "--out", "out", "--language", "en"], "no wav.scp"),
        (["kaldi", "empty", "--out", "out"], "Missing option '--language'"),
        (
            ["kaldi", "in", "--out", "out", "--language", "tlh", "--labels", "phones"],
            "does not speak",
        ),
        (["librispeech", "in", "--out", "in"], "audio of the corpus lies in"),
        (["librispeech", "in", "--out", ".", "--overwrite"], "audio of the corpus lies in"),
        (["librispeech", "in", "--out", "out", "--overwrite", "--resume"], "choose one"),
        (["librispeech", "in", "--out", "a\tb"], "has a tab or line feed in its name"),
        (["librispeech", "in", "--out", "file/out"], "cannot be written to"),
        (["synthetic", "--out", "out", "--language", "fi"], "no words of language 'fi'"),
        (["digits", "--archive", "gone.tar", "--out", "out"], "gone.tar is missing"),
    ],
)
def test_bad_input_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    write_librispeech(tmp_path / "in")
    before = sorted(os.listdir(tmp_path))
    result = run(*words)
    assert result.exit_code != 0
    lines = result.output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("speechprune: error: ") and told in lines[0]
    assert sorted(os.listdir(tmp_path)) == before


def test_a_dictionary_is_taken_by_corpora_that_are_read_and_made(tmp_path: Path) -> None:
    given = tmp_path / "dict.txt"
    words = {
        "librispeech": [write_librispeech(tmp_path / "in")],
        "synthetic": [*SIZES, "--vocabulary", "2"],
    }
    for corpus, arguments in words.items():
        given.write_text("| 1\nT 1\n", encoding="utf-8")
        asked = [corpus, *arguments, "--out", tmp_path / corpus, "--dictionary", given]
        refused = run(*asked)
        assert refused.exit_code == 1 and "dict.txt lacks " in refused.output
        assert (
            refused.output.startswith("speechprune: error: ") and not (tmp_path / corpus).exists()
        )
        given.write_text("".join(f"{symbol} 1\n" for symbol in "ZYXWVUTSRQPONMLKJIHGFEDCBA|'"))
        succeed(*asked)
        assert (tmp_path / corpus / "dict.ltr.txt").read_text() == given.read_text()
        assert not check_folder(tmp_path / corpus).errors
    assert "gone.txt is missing" in run(*asked[:-1], tmp_path / "gone.txt", "--overwrite").output


def test_made_corpora_are_accepted_with_resume(tmp_path: Path) -> None:
    words = ["synthetic", "--out", tmp_path / "out", *SIZES]
    first = succeed(*words)
    assert succeed(*words, "--resume") == first
    result = run(*words, "--resume", "--seed", "2")
    assert result.exit_code == 1 and "was prepared with settings" in result.output


def test_a_finished_folder_is_accepted_with_resume(tmp_path: Path) -> None:
    words = ["librispeech", write_librispeech(tmp_path / "in"), "--out", tmp_path / "out"]
    first = succeed(*words)
    assert run(*words).exit_code != 0
    assert succeed(*words, "--resume") == first
