"""One folder per class: splits as they are, or drawn; nothing is guessed where it is unclear."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from corpora import files_of, noise

from speechprune.errors import UserError
from speechprune.manifests.classes import read_labelled_split
from speechprune.manifests.corpora.folders import Folders, recordings_in
from speechprune.manifests.corpus import Clip, Corpus
from speechprune.manifests.drawn_splits import draw_splits
from speechprune.manifests.labelled_corpus import labelled_clip
from speechprune.manifests.preparation import prepare
from speechprune.manifests.report import check_folder
from speechprune.tools.main import commands

CLASSES = {"cat": 10, "dog": 20, "été": 1, "two words": 9}
SPEAKERS = r"/s(\d+)_"


def write_classes(root: Path, sizes: dict[str, int] | None = None, rate: int = 16000) -> Path:
    for name, count in (CLASSES if sizes is None else sizes).items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            noise(root / name / f"s{index % 5}_{index}.wav", 0.1, rate)
    return root


def run(*words: object) -> Result:
    return CliRunner().invoke(commands, ["prepare", "folders", *map(str, words)])


def names(corpus: Corpus) -> dict[str, list[str]]:
    return {split: [clip.name for clip in clips] for split, clips in corpus.splits.items()}


def test_a_folder_of_classes_becomes_a_manifest_folder(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", rate=8000)
    (root / "cat" / "deeper").mkdir()
    noise(root / "cat" / "deeper" / "s9_x.mp3", 0.5, 16000)
    for extra in ("cat/notes.txt", "README.md", ".hidden/x.wav", "cat/.trash.wav"):
        (root / extra).parent.mkdir(exist_ok=True)
        (root / extra).write_text("no recording")
    result = run(root, "--out", tmp_path / "out", "--slot", "animal", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "slot animal: 4 classes" in result.output and "41 of 41 converted" in result.output
    found = {}
    for name in ("train", "valid", "test"):
        for utterance in read_labelled_split(tmp_path / "out", name).utterances:
            found[utterance.path] = utterance.labels
    assert len(found) == 41 and all(path.split("/")[0] == each[0] for path, each in found.items())
    report = check_folder(tmp_path / "out")
    assert not report.errors and not report.warnings, report.describe_in_words()


def test_splits_are_drawn_with_all_classes_in_each(tmp_path: Path) -> None:
    corpus = Folders().read(write_classes(tmp_path / "in", {"a": 50, "b": 100, "c": 10}))
    counts = {
        split: Counter(clip.transcript for clip in clips) for split, clips in corpus.splits.items()
    }
    assert counts["train"] == {"a": 40, "b": 80, "c": 8}
    for held_out in ("valid", "test"):
        for label, expected in {"a": 5, "b": 10, "c": 1}.items():
            assert abs(counts[held_out][label] - expected) <= 1
    assert corpus.shared_speakers


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "shares", [{"train": 0.5, "test": 0.5}, {"train": 0.7, "b": 0.2, "c": 0.1}]
)
def test_a_draw_keeps_every_clip_once(shares: dict[str, float], seed: int) -> None:
    clips = [
        labelled_clip(f"{label}/{i}.wav", [label], f"s{i % 7}")
        for label, count in (("a", 1), ("b", 2), ("c", 30), ("d", 67))
        for i in range(count)
    ]
    for by in ("utterance", "speaker"):
        splits = draw_splits(clips, shares, by, seed)
        assert list(splits) == list(shares)
        assert sorted(clip for found in splits.values() for clip in found) == sorted(clips)
        assert splits == draw_splits(clips[::-1], shares, by, seed)
        assert all(splits.values())
        for name, share in shares.items():
            if by == "utterance":
                assert abs(len(splits[name]) - share * len(clips)) <= 2
    trained = {clip.transcript for clip in draw_splits(clips, shares, "utterance", seed)["train"]}
    assert trained == set("abcd")
    assert draw_splits(clips, shares, "utterance", 99) != splits


def test_speakers_stay_in_one_split(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", {"a": 50, "b": 50})
    corpus = Folders(speakers=SPEAKERS, shares="train=0.6,test=0.4").read(root)
    speakers = {name: {clip.speaker for clip in c} for name, c in corpus.splits.items()}
    assert set.union(*speakers.values()) == set("01234")
    assert not speakers["train"] & speakers["test"] and not corpus.shared_speakers
    both = Folders(speakers=SPEAKERS, by="utterance").read(root)
    assert {clip.speaker for clip in both.splits["test"]} <= set("01234") and both.shared_speakers


def test_splits_that_are_there_are_kept(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("dev", 2)):
        write_classes(tmp_path / "in" / split, {"a": count, "b": count})
    corpus = Folders(speakers=SPEAKERS).read(tmp_path / "in")
    assert {name: len(clips) for name, clips in corpus.splits.items()} == {"dev": 4, "train": 6}
    assert names(corpus)["dev"][0] == "dev/a/s0_0" and not corpus.shared_speakers
    for options, flag in (
        ({"shares": "train=0.5,test=0.5"}, "--shares"),
        ({"by": "speaker"}, "--by"),
    ):
        with pytest.raises(UserError, match=f"{flag} .* draws splits, but the folders in .*splits"):
            Folders(**options).read(tmp_path / "in")
    prepare(corpus, tmp_path / "out", workers=1)
    assert check_folder(tmp_path / "out").counts == {"shared speaker": 2}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    vehicles = write_classes(tmp_path / "in", {"car": 10, "train": 10})
    assert Folders().read(vehicles).labels.slots[0].classes == ("car", "train")
    (vehicles / "train" / "steam").mkdir()
    noise(vehicles / "train" / "steam" / "x.wav", 0.1)
    with pytest.raises(UserError, match="holds no folder of a class"):
        Folders().read(vehicles)
    assert len(Folders(layout="classes").read(vehicles).splits["train"]) == 17


def test_what_was_prepared_does_not_depend_on_workers(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", {"a": 40, "b": 40}, rate=8000)
    found = []
    for workers in (1, 2):
        prepare(Folders().read(root), tmp_path / "out", workers=workers, overwrite=True)
        found.append(files_of(tmp_path / "out"))
    assert found[0] == found[1]
    there = prepare(Folders().read(root), tmp_path / "out", resume=True)
    assert [s.name for s in there.splits] == ["test", "train", "valid"]
    assert {s.name: len(s.utterances) for s in there.splits}["train"] == 64


def test_refusals(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in")
    for options, complaint in (
        ({"speakers": "("}, "is not a regular expression"),
        ({"speakers": "x"}, "has no group: put the speaker in parentheses"),
        ({"speakers": "/t(.)_"}, "finds no speaker in .*: cat/s0_0.wav"),
        ({"by": "speaker"}, "has no speaker; draw with --by utterance"),
        ({"shares": "train"}, "--shares train: 'train' is not NAME=SHARE"),
        ({"shares": "train=0.5,test=0.4"}, "give two or more shares above 0 that sum to 1"),
        ({"speakers": "/(s)", "shares": "train=0.5,test=0.5"}, r"1 speaker\(s\) cannot be drawn"),
        ({"layout": "splits"}, "cat holds no folder of a class"),
        ({"slot": "a\tb"}, "cannot be the name of a slot"),
    ):
        with pytest.raises(UserError, match=complaint):
            Folders(**options).read(root)
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="class 'empty' is empty: no recording in"):
        Folders().read(root)
    (root / "empty").rmdir()
    (root / "a\tb").mkdir()
    noise(root / "a\tb" / "x.wav")
    with pytest.raises(UserError, match=r"'a\\tb' cannot be a class"):
        Folders().read(root)
    with pytest.raises(UserError, match="slot 'class' has only the class 'a'"):
        Folders().read(write_classes(tmp_path / "one", {"a": 10}))
    for split, sizes in (("train", {"a": 1, "b": 1}), ("test", {"a": 1, "c": 1})):
        write_classes(tmp_path / "two" / split, sizes)
    with pytest.raises(UserError, match="no utterance to train on has the class 'c'"):
        Folders().read(tmp_path / "two")


def test_a_class_without_a_recording_that_can_be_used_is_refused(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", {"a": 20, "b": 20, "c": 1})
    (root / "c" / "s0_0.wav").write_bytes(b"no audio")
    refused = run(root, "--out", tmp_path / "out", "--workers", 1)
    assert refused.exit_code == 1 and "1 of 41 clips cannot be used" in refused.output
    refused = run(root, "--out", tmp_path / "out", "--workers", 1, "--max-bad", 1)
    assert (
        refused.output == "speechprune: error: no clip of class 'c' of slot 'class' can be used\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_what_is_no_folder_is_told_apart_from_one_without_classes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, complaint in (
        ("missing", "does not exist, or is a file"),
        ("file", "does not exist, or is a file"),
        ("empty", "holds no folder of a class"),
    ):
        with pytest.raises(UserError, match=complaint):
            Folders().read(tmp_path / name)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", {"a": 1, "b": 1})
    write_classes(tmp_path / "elsewhere", {"more": 2})
    (root / "a" / "linked").symlink_to(tmp_path / "elsewhere" / "more")
    (root / "a" / "loop").symlink_to(root / "a")
    (tmp_path / "elsewhere" / "more" / "back").symlink_to(root / "a")
    found = list(recordings_in(root / "a", root))
    own, linked = found[0], found[1:]
    assert own == "a/s0_0.wav" and len(linked) == 2
    assert all(path.startswith("a/linked/s") for path in linked)


def test_a_clip_of_classes_is_one_line() -> None:
    assert labelled_clip("a.wav", ["go", "left"]) == Clip("a.wav", "go\tleft")
    with pytest.raises(UserError, match="cannot be a class"):
        labelled_clip("a.wav", ["go\tleft"])
    with pytest.raises(UserError, match="cannot be a speaker"):
        labelled_clip("a.wav", ["go", "left"], "ann\nbob")


def test_a_refused_preparation_continues(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", {"a": 20, "b": 20}, rate=8000)
    (root / "a" / "s1_1.wav").write_bytes(b"no audio")
    words = [root, "--out", tmp_path / "out", "--workers", 1]
    assert "what was converted stays in" in run(*words).output
    converted = {p: p.stat().st_ino for p in sorted((tmp_path / ".out.partial").rglob("*.flac"))}
    assert len(converted) == 39 and not (tmp_path / "out").exists()
    assert run(*words, "--max-bad", 0.05).exit_code == 0
    kept = {p.stat().st_ino for p in (tmp_path / "out").rglob("*.flac")}
    assert kept == set(converted.values())
    assert not check_folder(tmp_path / "out").errors
