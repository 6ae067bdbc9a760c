"""Single digits with classes: each recording once, in the split that strings of digits have it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from corpora import files_of
from test_digits import INDICES, SPEAKERS, archive_of, flac, heard, level

from speechprune.errors import UserError
from speechprune.manifests.classes import LabelledSplit, read_labelled_split
from speechprune.manifests.digit_recordings import read_recordings
from speechprune.manifests.digits import WORDS
from speechprune.manifests.report import check_folder
from speechprune.manifests.single_digits import TASKS, SingleDigits, make_single_digits
from speechprune.tools.main import commands

SMALL = {"train": 20, "valid": 40, "test": 30}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members = {
        f"fsdd/{d}_{s}_{i}.flac": flac(np.full(800, level(d, s, i)))
        for d in range(10)
        for s in SPEAKERS
        for i in INDICES
    }
    return archive_of(tmp_path_factory.mktemp("fsdd") / "digits.tar", members)


def prepare(*words: object) -> str:
    result = CliRunner().invoke(commands, ["prepare", "digits", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def splits_of(folder: Path) -> list[LabelledSplit]:
    return [read_labelled_split(folder, name) for name in SMALL]


@pytest.mark.parametrize("task", TASKS)
def test_labels_say_what_is_heard(tmp_path: Path, archive: Path, task: str) -> None:
    make_single_digits(tmp_path / "out", archive, SingleDigits(task))
    used = Counter()
    allowed = {"test": range(0, 5), "valid": range(5, 10), "train": range(10, 12)}
    for split in splits_of(tmp_path / "out"):
        for utterance in split.utterances:
            ((digit, speaker, index),) = heard(split.root / utterance.path)
            truth = {"digit": WORDS[digit], "speaker": speaker}
            assert utterance.labels == tuple(truth[slot] for slot in TASKS[task])
            assert index in allowed[split.name] and utterance.speaker == speaker
            used[digit, speaker, index] += 1
    assert len(used) == 10 * len(SPEAKERS) * len(INDICES) and set(used.values()) == {1}
    report = check_folder(tmp_path / "out")
    assert not report.errors and not report.warnings, report.describe_in_words()


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_drawn_is_balanced(tmp_path: Path, archive: Path, seed: int) -> None:
    make_single_digits(tmp_path / "out", archive, SingleDigits("intent", SMALL, seed))
    for split in splits_of(tmp_path / "out"):
        size = SMALL[split.name]
        digits, speakers = (Counter(u.labels[slot] for u in split.utterances) for slot in (0, 1))
        assert set(digits.values()) == {size // 10} and len(digits) == 10
        assert set(speakers.values()) == {size // 2}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, archive: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = tmp_path / name / "out"
        folder.parent.mkdir()
        make_single_digits(folder, archive, SingleDigits("keyword", SMALL, seed))
    a, b, c = (
        {k: v for k, v in files_of(tmp_path / name / "out").items() if not k.endswith(".tsv")}
        for name in "abc"
    )
    assert a == b and a.keys() != c.keys()


def test_the_command_resumes_and_tells_what_it_has(tmp_path: Path, archive: Path) -> None:
    words = ("--archive", archive, "--out", tmp_path / "out", "--task", "intent", "--test", 50)
    first = prepare(*words)
    rows = [line.split()[:2] for line in first.splitlines()]
    assert rows == [
        *(["train", "40"], ["valid", "100"], ["test", "50"]),
        *(["slot", "digit:"], ["slot", "speaker:"]),
    ]
    assert "slot digit: 10 classes" in first
    before = files_of(tmp_path / "out")
    assert prepare(*words, "--resume") == first and files_of(tmp_path / "out") == before
    more = ["prepare", "digits", *map(str, words), "--resume", "--seed", "2"]
    assert "was prepared with settings" in CliRunner().invoke(commands, more).output
    (tmp_path / "more").mkdir()
    eve = {"fsdd/0_eve_0.flac": flac(np.full(800, 500))}
    other = archive_of(tmp_path / "more" / archive.name, eve)
    more = ["prepare", "digits", *map(str, words), "--resume", "--archive", str(other)]
    assert "was prepared with archive_digest" in CliRunner().invoke(commands, more).output


def test_what_cannot_be_made_is_refused(tmp_path: Path, archive: Path) -> None:
    cases = {
        "--valid 101: the archive has 100": SingleDigits("keyword", {"train": 1, "valid": 101}),
        "only the class": SingleDigits("keyword", {"train": 1}),
        "no utterance to train on has the class": SingleDigits("keyword", {"train": 2, "test": 9}),
    }
    for complaint, settings in cases.items():
        with pytest.raises(UserError, match=complaint):
            make_single_digits(tmp_path / "out", archive, settings)
    twice = {name: flac(np.full(800, 500)) for name in ("a/0_ann_1.flac", "b/0_ann_1.flac")}
    with pytest.raises(UserError, match="holds 2 recordings called 0_ann_1; keep one"):
        path = archive_of(tmp_path / "twice.tar", twice)
        make_single_digits(tmp_path / "out", path, SingleDigits("keyword"))
    for sizes in ({"train": 0}, {"dev": 3}, {}):
        with pytest.raises(UserError):
            SingleDigits("keyword", sizes)
    assert not list(tmp_path.glob("*out*"))


def test_another_dictionary_is_taken(tmp_path: Path, archive: Path) -> None:
    dictionary = tmp_path / "dict.lbl.txt"
    dictionary.write_text("".join(f"digit\t{word}\t1\n" for word in WORDS))
    words = ("--archive", archive, "--task", "keyword", "--dictionary", dictionary)
    prepare(*words, "--out", tmp_path / "out")
    assert (tmp_path / "out/dict.lbl.txt").read_text() == dictionary.read_text()
    assert read_labelled_split(tmp_path / "out", "train").slots[0].classes == WORDS


def test_real_digits(tmp_path: Path, shared_data: Path) -> None:
    archive = shared_data / "fsdd" / "fsdd-5speakers.tar"
    sizes = {"train": 50, "valid": 50, "test": None}
    make_single_digits(tmp_path / "out", archive, SingleDigits("intent", sizes))
    recordings, _ = read_recordings(archive)
    expected = {f"test/{r.digit}_{r.speaker}_{r.index}.flac": r for r in recordings if r.index < 5}
    split = read_labelled_split(tmp_path / "out", "test")
    assert [u.path for u in split.utterances] == sorted(expected)
    for utterance in split.utterances:
        recording = expected[utterance.path]
        assert utterance.labels == (WORDS[recording.digit], recording.speaker)
        assert utterance.frames == 2 * len(recording.samples)
        assert soundfile.info(split.root / utterance.path).samplerate == 16000
    assert set(Counter(u.labels for u in split.utterances).values()) == {5}
