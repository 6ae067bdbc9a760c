"""Labels of every kind, whatever `task.labels` may be, are checked and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from manifest_folders import TRAIN, VALID, lines, refuse, run, succeed, write_folder

from speechprune.manifests.label_files import label_endings

PHONES = {"train": ["n oː", "j ɛ s"], "valid": ["oː n"]}


def relabel(folder: Path, ending: str, rows: dict[str, list[str]], *, listed: bool = True) -> Path:
    """Add labels with some ending, and their dictionary."""
    for name, spoken in (("train", TRAIN), ("valid", VALID)):
        if name in rows:
            repeated = (rows[name] * len(spoken))[: len(spoken)]
            text = "".join(f"{row}\n" for row in repeated)
            (folder / f"{name}.{ending}").write_text(text, encoding="utf-8")
    symbols = sorted({s for each in rows.values() for row in each for s in row.split()})
    if listed:
        text = "".join(f"{symbol} 1\n" for symbol in symbols)
        (folder / f"dict.{ending}.txt").write_text(text, encoding="utf-8")
    return folder


def without(folder: Path, ending: str) -> Path:
    for file in (*folder.glob(f"*.{ending}"), folder / f"dict.{ending}.txt"):
        file.unlink()
    return folder


def test_phones_beside_letters_are_checked_and_counted(tmp_path: Path) -> None:
    folder = relabel(write_folder(tmp_path / "both"), "phn", PHONES)
    assert label_endings(folder) == ["ltr", "phn"]
    table = succeed("check", folder).splitlines()
    assert "symbols in .ltr  symbols in .phn" in table[0]
    assert table[1].split() == ["train", "4", "0.00", "0.20", "7", "5", "0"]
    found = json.loads(succeed("check", folder, "--json"))["splits"]["train"]
    assert (found["symbols"], found["labels"]) == (7, {"ltr": 7, "phn": 5})
    told = json.loads(succeed("stats", folder, "--json"))
    assert told["splits"] == told["labels"]["ltr"]
    assert told["labels"]["phn"]["valid"]["symbols"] == {"n": 2, "oː": 2}
    assert told["labels"]["phn"]["train"]["words"] == told["splits"]["train"]["words"] == 7
    words = succeed("stats", folder)
    assert words.count("split ") == 2 and "labels in .phn" in words


@pytest.mark.parametrize("ending", ["phn", "km", "bpe"])
def test_a_folder_may_have_other_labels_only(tmp_path: Path, ending: str) -> None:
    folder = relabel(without(write_folder(tmp_path / "units"), "ltr"), ending, PHONES)
    (folder / "train.wrd").unlink()
    (folder / "valid.wrd").unlink()
    assert label_endings(folder) == [ending]
    succeed("check", folder)
    counted = json.loads(succeed("stats", folder, "--json"))["splits"]["train"]
    assert counted["symbols"] == {"j": 2, "n": 2, "oː": 2, "s": 2, "ɛ": 2}
    assert (counted["words"], counted["distinct_symbols"]) == (None, 5)


def test_words_may_be_the_labels(tmp_path: Path) -> None:
    folder = without(write_folder(tmp_path / "words"), "ltr")
    assert "dict.wrd.txt is missing" in run("check", folder).stdout
    listed = sorted({word for text, _, _ in (*TRAIN, *VALID) for word in text.split()})
    (folder / "dict.wrd.txt").write_text("".join(f"{word} 1\n" for word in listed))
    succeed("check", folder)
    counted = json.loads(succeed("stats", folder, "--json"))["splits"]["train"]
    assert counted["symbols"] == {"NO": 2, "ON": 2, "YES": 2, "SEVEN": 1}
    assert counted["words"] == 7


def test_what_is_wrong_with_other_labels_is_found(tmp_path: Path) -> None:
    folder = relabel(write_folder(tmp_path / "both"), "phn", PHONES)
    (folder / "dict.phn.txt").write_text("n 1\noː 1\nj 1\ns 1\n", encoding="utf-8")
    (folder / "valid.phn").write_text("n\n")
    told = run("check", folder).stdout
    assert "unknown symbol, 1 of 1: 'ɛ' is not in dict.phn.txt: 2 times" in told
    assert "line count, 1 of 1: " in told and "valid.phn has 1 lines for 2 recordings" in told
    succeed("check", folder, "--labels", "ltr")
    (folder / "dict.phn.txt").unlink()
    assert "dictionary, 1 of 1: " in run("check", folder, "--labels", "phn").stdout


def test_a_split_may_lack_one_kind_but_not_all(tmp_path: Path) -> None:
    folder = relabel(write_folder(tmp_path / "both"), "phn", {"train": PHONES["train"]})
    succeed("check", folder)
    assert "valid" not in json.loads(succeed("stats", folder, "--json"))["labels"]["phn"]
    (folder / "valid.ltr").unlink()
    assert "valid.ltr is missing" in run("check", folder).stdout
    assert "valid.ltr is missing" in refuse("stats", folder)


def test_labels_that_are_not_there_are_refused(tmp_path: Path) -> None:
    folder = relabel(write_folder(tmp_path / "both"), "phn", PHONES)
    for command in ("check", "stats"):
        refused = refuse(command, folder, "--labels", "bpe")
        assert "has no SPLIT.bpe; its labels are .ltr, .phn" in refused


def test_labels_are_compared_with_a_given_dictionary(tmp_path: Path) -> None:
    folder = relabel(write_folder(tmp_path / "both"), "phn", PHONES)
    given = tmp_path / "dict.phn.txt"
    given.write_text("n 1\n")
    told = run("check", folder, "--dictionary", given).stdout
    assert "'oː' is not in dict.phn.txt" in told and "dict.ltr.txt" not in told
    given.write_text("".join(f"{row}\n" for row in reversed(lines(folder / "dict.phn.txt"))))
    succeed("check", folder, "--dictionary", given)


def test_letters_of_single_words_may_lack_their_end(tmp_path: Path) -> None:
    """The dictionary tells that they are letters, and their words are compared."""
    folder = write_folder(tmp_path / "single", {"train": [("NO", "ann", 800), ("YES", "bob", 800)]})
    (folder / "train.ltr").write_text("N O\nY E S\n")
    succeed("check", folder)
    (folder / "train.wrd").write_text("NO\nYET\n")
    assert "'YET', but the letters say 'YES'" in run("check", folder).stdout
    (folder / "train.wrd").unlink()
    assert json.loads(succeed("stats", folder, "--json"))["splits"]["train"]["words"] == 2
