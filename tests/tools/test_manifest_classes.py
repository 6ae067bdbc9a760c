"""`speechprune manifest` on folders whose utterances have classes: labels stay with their audio."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manifest_folders import contents, edit, lines, refuse, run, succeed, told, write_folder

from speechprune.manifests.audio import write_flac
from speechprune.manifests.classes import (
    LabelledSplit,
    LabelledUtterance,
    read_labelled_split,
    write_labelled_manifest,
)
from speechprune.manifests.folders import replacing
from speechprune.manifests.slots import read_class_counts, slots_of

SLOTS = ("word", "who")
WORDS, PEOPLE = ("go left", "halt", "été"), ("ann", "bob", "eve")


def labels(seed: int, count: int) -> list[tuple[str, str]]:
    """Every class, and then any."""
    draw = random.Random(seed)
    rest = [(draw.choice(WORDS), draw.choice(PEOPLE)) for _ in range(count - 3)]
    return [*zip(WORDS, PEOPLE), *rest]


def write_labelled(
    folder: Path,
    splits: Mapping[str, Sequence[tuple[str, ...]]],
    names: Sequence[str] = SLOTS,
    provenance: Mapping[str, Any] = {},
) -> Path:
    """A folder and its audio, each recording of another length."""
    slots = slots_of(names, (each for found in splits.values() for each in found))
    draw = np.random.default_rng(0)
    with replacing(folder) as partial:
        written = []
        for name, found in splits.items():
            rows = []
            for index, each in enumerate(found):
                path, frames = f"{name}/{index:03d}.flac", 800 + 10 * index
                write_flac(partial / "audio" / path, draw.normal(0, 0.1, frames))
                rows.append(LabelledUtterance(path, frames, each, f"{each[-1]}{name}"))
            root = folder.absolute() / "audio"
            written.append(LabelledSplit(name, root, slots, tuple(rows)))
        write_labelled_manifest(partial, written, provenance)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_labelled(tmp_path / "in", {"train": labels(0, 40), "test": labels(1, 9)})


def said(*folders: Path) -> dict[tuple[str, int], tuple[tuple[str, ...], str]]:
    """Labels and speaker by the recording's file and length."""
    found = {}
    for folder in folders:
        for file in sorted(folder.glob("*.tsv")):
            split = read_labelled_split(folder, file.stem)
            for path, frames, each, speaker in split.utterances:
                found[str(split.root / path), frames] = each, speaker
    return found


def test_a_good_folder_passes_and_is_counted(folder: Path) -> None:
    table = [line.split() for line in succeed("check", folder).splitlines()]
    assert table[0][-4:] == ["classes", "in", ".lbl", "errors"]
    assert [row[0::4] for row in table[1:]] == [["test", "6"], ["train", "6"]]
    found = json.loads(succeed("stats", folder, "--json"))["splits"]["test"]
    expected = [each for pair in labels(1, 9) for each in zip(SLOTS, pair)]
    assert found["symbols"] == {f"{s}: {c}": expected.count((s, c)) for s, c in set(expected)}
    assert (found["words"], found["speakers"]) == (None, 3)
    text = succeed("stats", folder).splitlines()
    assert text[0].split()[-2:] == ["classes", "speakers"] and "symbols" not in text[0]
    assert text[4].split() == ["class", "test", "train", "all"]


@pytest.mark.parametrize("seed", range(3))
def test_labels_stay_with_their_recordings(folder: Path, tmp_path: Path, seed: int) -> None:
    whole = said(folder)
    succeed("subset", folder, tmp_path / "a", "--minutes", 0.02, "--seed", seed)
    succeed("split", folder, tmp_path / "b", "--into", "train=0.7,valid=0.3", "--by", "utterance")
    drawn, cut = said(tmp_path / "a"), said(tmp_path / "b")
    assert 0 < len(drawn) < len(whole) and drawn.items() <= whole.items()
    assert cut == whole
    for name in "ab":
        assert lines(tmp_path / name / "dict.lbl.txt") == lines(folder / "dict.lbl.txt")


def test_merged_folders_keep_all_labels(folder: Path, tmp_path: Path) -> None:
    more = [("halt", "zoe"), ("go left", "ann"), ("up", "zoe")]
    other = write_labelled(tmp_path / "other", {"train": more, "valid": more})
    succeed("merge", tmp_path / "out", folder, other, "--language", "en", "--language", "es")
    expected = {
        key: (each, f"{language}/{speaker}")
        for language, source in (("en", folder), ("es", other))
        for key, (each, speaker) in said(source).items()
    }
    assert said(tmp_path / "out") == expected
    counts = read_class_counts(tmp_path / "out" / "dict.lbl.txt")
    assert list(counts["who"]) == ["ann", "bob", "eve", "zoe"]
    all_words = [each[0] for each, _ in expected.values()]
    assert counts["word"] == {word: all_words.count(word) for word in sorted({*all_words})}
    assert not list((tmp_path / "out").glob("*.wrd"))
    succeed("check", tmp_path / "out")


def test_classes_that_are_numbers_are_merged(tmp_path: Path) -> None:
    digits = [("0",), ("1",)]
    for name in "ab":
        write_labelled(tmp_path / name, {"train": digits}, ["digit"])
    succeed("merge", tmp_path / "out", tmp_path / "a", tmp_path / "b")
    assert lines(tmp_path / "out" / "dict.lbl.txt") == ["digit\t0\t2", "digit\t1\t2"]


def test_what_cannot_be_merged_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_labelled(tmp_path / "other", {"train": labels(0, 5)}, ["word", "speaker"])
    told = refuse("merge", tmp_path / "out", folder, other)
    assert "has the slots word, speaker, " in told and "merge folders of the same slots" in told
    told = refuse("merge", tmp_path / "out", folder, write_folder(tmp_path / "texts"))
    assert "no labels in common" in told and "has .lbl" in told and "has .ltr" in told
    assert not (tmp_path / "out").exists()


def test_a_folder_may_have_texts_and_classes(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / name) for name in "ab"]
    for folder in folders:
        for split in ("train", "valid"):
            speakers = lines(folder / f"{split}.spk")
            mood = [("calm", "wild")[index % 2] for index in range(len(speakers))]
            (folder / f"{split}.lbl").write_text("".join(f"{each}\n" for each in mood))
        (folder / "dict.lbl.txt").write_text("mood\tcalm\t3\nmood\twild\t3\n")
    succeed("merge", tmp_path / "out", *folders)
    succeed("check", tmp_path / "out")
    assert lines(tmp_path / "out" / "dict.lbl.txt") == ["mood\tcalm\t6", "mood\twild\t6"]
    assert len(lines(tmp_path / "out" / "train.ltr")) == len(lines(tmp_path / "out" / "train.lbl"))
    found = json.loads(succeed("stats", tmp_path / "out", "--json"))["labels"]
    assert list(found) == ["ltr", "lbl"]


DAMAGES = {
    "a column too few": ("train.lbl", "halt\tbob", "halt", "label", "line 2: has 1 column(s) for"),
    "nothing": ("train.lbl", "halt\tbob", "\tbob", "label", "line 2: has no class in slot 'word'"),
    "unknown": ("train.lbl", "halt\tbob", "hall\tbob", "label", "did you mean 'halt'?"),
    "a line": ("test.lbl", "halt\tbob\n", "", "line count", "has 8 lines for 9 recordings"),
    "dictionary": ("dict.lbl.txt", "word\t", "word ", "dictionary", "expected `slot<TAB>class"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_kind_of_damage_is_found(folder: Path, damage: str) -> None:
    file, old, new, kind, message = DAMAGES[damage]
    edit(folder / file, old, new)
    result = run("check", folder)
    assert result.exit_code == 1
    (line,) = result.stdout.splitlines()[3:]
    assert line.startswith(f"{kind}, 1 of 1: {folder}") and message in line


def test_a_missing_dictionary_is_found(folder: Path) -> None:
    (folder / "dict.lbl.txt").unlink()
    assert "dict.lbl.txt is missing" in run("check", folder).stdout


def test_classes_that_are_not_trained_are_told(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "in", {"train": labels(0, 5), "test": labels(0, 5)})
    edit(folder / "dict.lbl.txt", "word\thalt", "word\tgone\t0\nword\thalt")
    warned = succeed("check", folder)
    assert "warning: empty class, 1 of 1: 'gone' of slot 'word', which dict.lbl.txt" in warned
    edit(folder / "test.lbl", "halt\t", "gone\t")
    result = run("check", folder)
    assert result.exit_code == 1 and "empty class" not in result.stdout
    assert "unseen class, 1 of 1: no split to train on has 'gone' of slot 'word'" in result.stdout
    for ending in ("tsv", "lbl", "spk"):
        (folder / f"train.{ending}").unlink()
    succeed("check", folder)


def test_the_dictionary_of_a_model_takes_the_place(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "dict.lbl.txt"
    model.write_text("".join(f"{line}\n" for line in lines(folder / "dict.lbl.txt")[::-1][3:]))
    told_by = refuse("subset", folder, tmp_path / "out", "--minutes", 0.01, "--dictionary", model)
    assert "has the slots word, the labels word, who" in told_by
    assert "unknown class" not in run("check", folder, "--dictionary", model).stdout
    extra = [*lines(folder / "dict.lbl.txt")[:3][::-1], *lines(folder / "dict.lbl.txt")[3:]]
    model.write_text("".join(f"{line}\n" for line in [*extra, "who\tzoe\t1"]))
    succeed("subset", folder, tmp_path / "out", "--minutes", 0.01, "--dictionary", model)
    assert lines(tmp_path / "out" / "dict.lbl.txt") == lines(model)
    edit(model, "who\tbob\t", "who\tbert\t")
    before = contents(tmp_path / "out")
    told_by = refuse(
        *("subset", folder, tmp_path / "out", "--minutes", 0.01, "--overwrite"),
        *("--dictionary", model),
    )
    assert "lacks 'bob' of slot 'who'" in told_by and contents(tmp_path / "out") == before
    assert told(tmp_path / "out")["operation"] == "subset"
