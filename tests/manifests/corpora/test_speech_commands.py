"""Speech Commands as SUPERB uses it: splits by the lists, silence cut out of noise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from corpora import noise

from speechprune.errors import UserError
from speechprune.manifests.classes import read_labelled_split
from speechprune.manifests.corpora.speech_commands import COMMANDS, SpeechCommands
from speechprune.manifests.report import check_folder
from speechprune.tools.main import commands

#: Who says a word, in which split; twice.
SPEAKERS = {"train": "0a7c2a8d", "valid": "1b88bf70", "test": "2aca1e72"}
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}


def write_speech_commands(root: Path, *, seconds: float = 20.0) -> Path:
    lists: dict[str, list[str]] = {"valid": [], "test": []}
    for word in (*COMMANDS, "bed", "zero"):
        for split, speaker in SPEAKERS.items():
            for take in range(2):
                path = f"{word}/{speaker}_nohash_{take}.wav"
                noise(root / path, 0.2)
                lists.get(split, []).append(f"{path}\n")
    for split, name in LISTS.items():
        (root / name).write_text("".join(lists[split]))
    (root / "_background_noise_").mkdir()
    (root / "_background_noise_/README.md").write_text("not noise")
    # The value of a sample says where it is.
    ramp = np.arange(int(16000 * seconds)) / 16000 / 100
    soundfile.write(root / "_background_noise_/tap.wav", ramp, 16000, subtype="PCM_16")
    return root


def write_test_set(root: Path) -> Path:
    for word in (*COMMANDS, "_unknown_", "_silence_"):
        for index in range(3):
            noise(root / word / f"{SPEAKERS['test']}_nohash_{index}.wav", 0.2)
    return root


def counts(folder: Path, name: str) -> Counter[str]:
    return Counter(u.labels[0] for u in read_labelled_split(folder, name).utterances)


def test_twelve_classes(tmp_path: Path) -> None:
    root = write_speech_commands(tmp_path / "speech_commands_v0.01")
    words = ["prepare", "speech-commands", str(root), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(commands, [*words, "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "slot keyword: 12 classes" in result.output
    spoken = {**dict.fromkeys(COMMANDS, 2), "_unknown_": 4}
    assert counts(tmp_path / "out", "train") == {**spoken, "_silence_": 31}
    assert counts(tmp_path / "out", "valid") == {**spoken, "_silence_": 3}
    assert counts(tmp_path / "out", "test") == {**spoken, "_silence_": 3}
    for name, speaker in SPEAKERS.items():
        found = {u.speaker for u in read_labelled_split(tmp_path / "out", name).utterances}
        assert found == {speaker, ""}
    report = check_folder(tmp_path / "out")
    assert not report.errors, report.describe_in_words()


def test_no_noise_is_in_two_splits(tmp_path: Path) -> None:
    root = write_speech_commands(tmp_path / "in", seconds=33.7)
    out = tmp_path / "out"
    words = ["prepare", "speech-commands", str(root), "--out", str(out), "--workers", "1"]
    assert CliRunner().invoke(commands, words).exit_code == 0
    spans = {}
    for name in SPEAKERS:
        split = read_labelled_split(out, name)
        pieces = [u for u in split.utterances if u.labels == ("_silence_",)]
        assert {u.frames for u in pieces} == {16000}
        heard = [soundfile.read(split.root / u.path)[0] * 100 for u in pieces]
        starts = sorted(float(each[0]) for each in heard)
        assert np.diff(starts) == pytest.approx(0.5, abs=0.01)
        spans[name] = starts[0], max(float(each[-1]) for each in heard)
    assert spans["train"][0] == pytest.approx(0, abs=0.01)
    assert spans["train"][1] <= spans["valid"][0] and spans["valid"][1] <= spans["test"][0]
    assert spans["test"][1] <= 33.7


def test_the_official_test_set_takes_the_place_of_the_list(tmp_path: Path) -> None:
    root = write_speech_commands(tmp_path / "v0.01")
    test_set = write_test_set(tmp_path / "speech_commands_test_set_v0.01")
    out = tmp_path / "out"
    words = ["prepare", "speech-commands", str(root), "--test-set", str(test_set)]
    result = CliRunner().invoke(commands, [*words, "--out", str(out), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert set(counts(out, "test").values()) == {3} and len(counts(out, "test")) == 12
    assert counts(out, "train")["yes"] == 2
    split = read_labelled_split(out, "test")
    assert all((split.root / u.path).resolve().is_relative_to(test_set) for u in split.utterances)
    assert not check_folder(out).errors


def test_all_words(tmp_path: Path) -> None:
    root = write_speech_commands(tmp_path / "in")
    corpus = SpeechCommands(words="all").read(root)
    assert corpus.labels.slots[0].classes == tuple(sorted((*COMMANDS, "bed", "zero")))
    assert {name: len(clips) for name, clips in corpus.splits.items()} == {
        **dict.fromkeys(SPEAKERS, 24)
    }


def test_a_listed_recording_that_is_missing_counts_as_bad(tmp_path: Path) -> None:
    root = write_speech_commands(tmp_path / "in")
    (root / "yes" / f"{SPEAKERS['valid']}_nohash_0.wav").unlink()
    words = ["prepare", "speech-commands", str(root), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(commands, [*words, "--workers", "1", "--max-bad", "0"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "the first is yes/1b88bf70_nohash_0 in valid, which cannot be opened" in result.output


def test_refusals(tmp_path: Path) -> None:
    root = write_speech_commands(tmp_path / "in")
    test_set = write_test_set(tmp_path / "test_set")

    def refused(**options: object) -> str:
        with pytest.raises(UserError) as caught:
            SpeechCommands(**options).read(root)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "leave out --words all" in refused(words="all", test_set=test_set)
    assert "no folder" in refused(test_set=tmp_path / "nowhere")
    for path in (test_set / "_silence_").iterdir():
        path.unlink()
    assert "class '_silence_' is empty" in refused(test_set=test_set)
    listed = (root / "testing_list.txt").read_text()
    first = (root / "validation_list.txt").read_text().splitlines()[0]
    for line, told in ((first, "is listed before"), ("x.wav", "is not WORD/FILE")):
        (root / "testing_list.txt").write_text(f"{listed}{line}\n")
        assert f"testing_list.txt line 25: '{line}' {told}" in refused()
    (root / "testing_list.txt").write_text(listed)
    (root / "_background_noise_/tap.wav").unlink()
    assert "class '_silence_' is empty: no recording of more than a second" in refused()
    (root / "_background_noise_/tap.wav").write_bytes(b"no audio")
    assert "tap.wav is not" in refused() or "tap.wav cannot" in refused()
    for path in (root / "go").iterdir():
        path.unlink()
    assert "class 'go' is empty: no recording in" in refused()
    (root / "go").rmdir()
    assert "has no folder of the word 'go'" in refused()
    (root / "validation_list.txt").unlink()
    assert "is not Speech Commands: it has no validation_list.txt" in refused()
