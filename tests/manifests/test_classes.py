"""Folders of classes: what is written is read again, and what is wrong is told in one line."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from manifest_folders import contents, edit, lines, told

from speechprune.errors import UserError
from speechprune.manifests.classes import (
    LabelledSplit,
    LabelledUtterance,
    read_labelled_split,
    write_labelled_manifest,
)
from speechprune.manifests.slots import Slot, Slots, read_slots, slots_of

INTENT = (Slot("action", ("go", "halt")), Slot("thing", ("a lamp", "lamp", "été")))
TRAIN = [("go", "lamp"), ("halt", "été"), ("go", "a lamp")]
TEST = [("halt", "lamp"), ("go", "été")]


def split_of(
    name: str,
    labels: Sequence[Sequence[str]],
    slots: Slots = INTENT,
    speakers: Sequence[str] = (),
) -> LabelledSplit:
    rows = [
        LabelledUtterance(f"{name}/{i:03d}.flac", 1600 + i, tuple(each), *speakers[i : i + 1])
        for i, each in enumerate(labels)
    ]
    return LabelledSplit(name, Path("/audio"), slots, tuple(rows))


def write(folder: Path, *splits: LabelledSplit, dictionary: Path | None = None) -> Path:
    folder.mkdir()
    write_labelled_manifest(folder, splits, {"corpus": "toy"}, dictionary=dictionary)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    splits = split_of("train", TRAIN, speakers=("ann", "", "bob")), split_of("test", TEST)
    return write(tmp_path / "out", *splits)


def test_the_files_are_as_described(folder: Path) -> None:
    assert lines(folder / "train.lbl") == ["go\tlamp", "halt\tété", "go\ta lamp"]
    assert lines(folder / "train.tsv")[:2] == ["/audio", "train/000.flac\t1600"]
    assert lines(folder / "train.spk") == ["ann", "", "bob"]
    assert lines(folder / "dict.lbl.txt") == [
        *("action\tgo\t3", "action\thalt\t2"),
        *("thing\ta lamp\t1", "thing\tlamp\t2", "thing\tété\t2"),
    ]
    assert told(folder)["splits"]["test"]["utterances"] == 2
    assert not (folder / "test.spk").exists() and not (folder / "train.ltr").exists()


def test_utterances_are_sorted_by_path(tmp_path: Path) -> None:
    forth = split_of("train", TRAIN, speakers=("c", "b", "a"))
    back = LabelledSplit(forth.name, forth.root, forth.slots, forth.utterances[::-1])
    assert contents(write(tmp_path / "a", forth)) == contents(write(tmp_path / "b", back))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_is_read_again(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    alphabet = "ab é|_#:=\u2028\u00a0\x0b'\"\\🎈<unk>"
    names = [f"slot {i}" for i in range(draw.randint(1, 4))]
    classes = [
        sorted({f"{i}{''.join(draw.choices(alphabet, k=5))}x" for i in range(draw.randint(2, 6))})
        for _ in names
    ]
    labels = [[draw.choice(each) for each in classes] for _ in range(30)]
    labels += [[each[i % len(each)] for each in classes] for i in range(6)]
    speakers = [draw.choice(["", "ann", "bob"]) for _ in labels]
    slots = slots_of(names, labels)
    splits = [split_of(name, labels, slots, speakers) for name in ("train", "valid")]
    out = write(tmp_path / "out", *splits)
    assert (
        read_slots(out) == slots == tuple(Slot(*each) for each in zip(names, map(tuple, classes)))
    )
    assert [read_labelled_split(out, split.name) for split in splits] == splits


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("train.lbl", "go\tlamp\n", "", "train.lbl has 2 lines for 3 recordings"),
        (
            "train.lbl",
            "go\tlamp",
            "go",
            "train.lbl line 1: has 1 column.s. for 2 slot.s., action, thing",
        ),
        ("train.lbl", "halt\t", "\t", "train.lbl line 2: has no class in slot 'action'"),
        ("train.lbl", "halt\t", "hall\t", "line 2: unknown class 'hall' of slot 'action'; did you"),
        ("train.lbl", "halt\t", "q\t", "unknown class 'q' .* training knows go, halt"),
        ("dict.lbl.txt", "action\tgo\t3", "action go 3", "line 1: expected `slot<TAB>class<TAB>co"),
        ("dict.lbl.txt", "go\t3", "go\t" + 5000 * "3", "line 1: expected `slot<TAB>class<TAB>co"),
        ("dict.lbl.txt", "action\tgo\t3\n", "", "slot 'action' has only the class 'halt'; there"),
        ("dict.lbl.txt", "action\thalt", "action\tgo", "line 2: 'go' of 'action' is there twice"),
        ("dict.lbl.txt", "action\thalt", "action\thalt ", "'halt ' cannot be a class of slot"),
    ],
)
def test_what_is_wrong_in_a_folder_is_told(
    folder: Path, file: str, old: str, new: str, complaint: str
) -> None:
    edit(folder / file, old, new)
    with pytest.raises(UserError, match=complaint) as caught:
        read_labelled_split(folder, "train")
    assert "\n" not in str(caught.value) and str(folder / file) in str(caught.value)


@pytest.mark.parametrize("file", ["train.tsv", "train.lbl", "dict.lbl.txt"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        read_labelled_split(folder, "train")


def test_a_model_reads_with_its_own_slots(folder: Path) -> None:
    wider = (Slot("action", ("stop", "halt", "go")), INTENT[1])
    assert read_labelled_split(folder, "test", wider).slots == wider
    with pytest.raises(UserError, match="test.lbl line 2: unknown class 'go' of slot 'action'"):
        read_labelled_split(folder, "test", (Slot("action", ("halt", "up")), INTENT[1]))


@pytest.mark.parametrize(
    ("splits", "complaint"),
    [
        ([split_of("train", [("go", "lap")])], "000.flac unknown class 'lap' .* mean 'lamp'"),
        ([split_of("train", [("go",)])], "train/000.flac has 1 column"),
        (
            [split_of("train", TRAIN), split_of("test", [("go",)], INTENT[:1])],
            "split test has the slots action, another action, thing",
        ),
        (
            [split_of("train", TRAIN[:1]), split_of("test", TEST)],
            "no utterance to train on has the class 'halt' of slot 'action' and 1 more",
        ),
    ],
)
def test_what_no_folder_can_hold_is_refused(
    tmp_path: Path, splits: list[LabelledSplit], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        write(tmp_path / "out", *splits)
    assert not contents(tmp_path / "out")


def test_a_folder_to_test_on_needs_no_training(tmp_path: Path) -> None:
    out = write(tmp_path / "out", split_of("test", TEST))
    assert "thing\ta lamp\t0" in lines(out / "dict.lbl.txt")


@pytest.mark.parametrize("name", ["", " go", "go\t", "a\tb", "a\nb", "a\rb", "\ufeffgo", " "])
def test_names_that_a_line_cannot_hold_are_refused(name: str) -> None:
    for make in (lambda: Slot(name, ("a", "b")), lambda: Slot("slot", ("a", name))):
        with pytest.raises(UserError, match="cannot be (a class of slot|the name of a slot)"):
            make()


def test_a_slot_needs_two_classes() -> None:
    for classes, complaint in (((), "has no class"), (("a",), "only the class 'a'")):
        with pytest.raises(UserError, match=complaint):
            Slot("slot", classes)
    with pytest.raises(UserError, match="has the class 'a' twice"):
        Slot("slot", ("a", "b", "a"))


def test_another_dictionary_is_copied_if_it_has_all_classes(tmp_path: Path) -> None:
    given = tmp_path / "dict.lbl.txt"
    given.write_text(
        "action\thalt\t7\naction\tgo\t7\n"
        + "".join(f"thing\t{name}\t7\n" for name in ("été", "lamp", "a lamp", "shoe"))
    )
    out = write(tmp_path / "a", split_of("train", TRAIN), dictionary=given)
    assert lines(out / "dict.lbl.txt") == lines(given)
    edit(given, "thing\tlamp\t7\n", "")
    with pytest.raises(UserError, match="lacks 'lamp' of slot 'thing', which the labels have"):
        write(tmp_path / "b", split_of("train", TRAIN), dictionary=given)
    edit(given, "action\thalt\t7\naction\tgo\t7\n", "")
    with pytest.raises(UserError, match="has the slots thing, the labels action, thing"):
        write(tmp_path / "c", split_of("train", TRAIN), dictionary=given)
