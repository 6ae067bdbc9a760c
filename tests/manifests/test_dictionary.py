"""Dictionaries: a symbol's line number is its output's, so the order must not depend on chance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpora import corpus_of, noise
from manifest_folders import TRAIN, lines, refuse, succeed, told, write_folder

from speechprune.errors import UserError
from speechprune.manifests.manifest import Split, Utterance, write_manifest
from speechprune.manifests.preparation import prepare

#: As fairseq publishes that of its English models: by frequency there, with padding.
PUBLISHED = ["| 94802", "E 51860", "S 38431", "O 33152", "N 31795", "Y 1", "V 1", "Ä 0"]


def symbols(folder: Path, labels: str = "ltr") -> list[str]:
    return [line.rpartition(" ")[0] for line in lines(folder / f"dict.{labels}.txt")]


def published(path: Path, rows: list[str] = PUBLISHED) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_the_order_does_not_depend_on_counts(tmp_path: Path) -> None:
    for name, texts in (("a", ["NO", "NO NO", "ÄON"]), ("b", ["Ä Ä Ä", "OOO", "ON"])):
        rows = tuple(Utterance(f"{i}.flac", 800, text) for i, text in enumerate(texts))
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, [Split("train", tmp_path, rows)], {})
    assert symbols(tmp_path / "a") == symbols(tmp_path / "b") == ["N", "O", "|", "Ä"]
    assert lines(tmp_path / "a/dict.ltr.txt") == ["N 4", "O 4", "| 4", "Ä 1"]


def test_a_given_dictionary_is_taken_as_it_is(tmp_path: Path) -> None:
    folder, given = write_folder(tmp_path / "in"), published(tmp_path / "dict.txt")
    succeed("subset", folder, tmp_path / "few", "--minutes", 0.006, "--dictionary", given)
    options = ("--into", "train=0.5,dev=0.5", "--dictionary", given)
    succeed("split", folder, tmp_path / "parts", *options)
    other = write_folder(tmp_path / "other")
    succeed("merge", tmp_path / "both", folder, other, "--dictionary", given)
    for out in ("few", "parts", "both"):
        assert lines(tmp_path / out / "dict.ltr.txt") == PUBLISHED
        succeed("check", tmp_path / out)


def test_symbols_that_a_given_dictionary_lacks_are_named(tmp_path: Path) -> None:
    folder, given = write_folder(tmp_path / "in"), published(tmp_path / "short.txt", PUBLISHED[:3])
    out = tmp_path / "out"
    refused = refuse("subset", folder, out, "--minutes", 0.006, "--dictionary", given)
    assert f"{given} lacks 'N', 'O', 'Y', which the labels have" in refused
    assert "is missing" in refuse("split", folder, out, "--into", "a=0.5,b=0.5", *gone(tmp_path))
    other = write_folder(tmp_path / "other")
    assert "lacks 'N', 'O'" in refuse("merge", out, folder, other, "--dictionary", given)
    assert not out.exists()


def gone(folder: Path) -> tuple[str, Path]:
    return "--dictionary", folder / "gone.txt"


def test_a_corpus_is_prepared_with_a_given_dictionary(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav", rate=8000)
    corpus = corpus_of(tmp_path / "in", train=["a.wav"])  # its units: said, a
    out = tmp_path / "out"
    with pytest.raises(UserError, match="dict.txt lacks 'a', which the labels have"):
        prepare(corpus, out, dictionary=published(tmp_path / "dict.txt", ["said 1", "z 1"]))
    assert not out.exists()
    given = published(tmp_path / "dict.txt", ["z 1", "said 1", "a 1"])
    prepare(corpus, out, dictionary=given)
    assert symbols(out) == ["z", "said", "a"]
    prepare(corpus, out, dictionary=given, resume=True)
    for other in (None, published(tmp_path / "other.txt", ["a 1", "said 1", "z 1"])):
        with pytest.raises(UserError, match="was prepared with dictionary"):
            prepare(corpus, out, dictionary=other, resume=True)


def test_folders_of_one_dictionary_keep_it_when_they_are_merged(tmp_path: Path) -> None:
    a, b = write_folder(tmp_path / "a"), write_folder(tmp_path / "b")
    for folder in (a, b):
        published(folder / "dict.ltr.txt")
    succeed("merge", tmp_path / "same", a, b)
    assert symbols(tmp_path / "same") == [row.split()[0] for row in PUBLISHED]
    published(b / "dict.ltr.txt", PUBLISHED[::-1])
    succeed("merge", tmp_path / "sorted", a, b)
    assert symbols(tmp_path / "sorted") == sorted(symbols(a))


def with_phones(folder: Path, rows: list[str]) -> Path:
    """Add labels of a second kind to each line of `train`."""
    count = len(TRAIN)
    (folder / "train.phn").write_text("".join(f"{row}\n" for row in (rows * count)[:count]))
    found = sorted({symbol for row in rows for symbol in row.split()})
    (folder / "dict.phn.txt").write_text("".join(f"{symbol} 1\n" for symbol in found))
    return folder


def test_labels_of_every_kind_are_kept(tmp_path: Path) -> None:
    a = with_phones(write_folder(tmp_path / "a"), ["n o", "j e s"])
    b = with_phones(write_folder(tmp_path / "b"), ["o n"])
    succeed("subset", a, tmp_path / "few", "--minutes", 0.006)
    where = [lines(a / "train.wrd").index(text) for text in lines(tmp_path / "few/train.wrd")]
    expected = [lines(a / "train.phn")[i] for i in where]
    assert lines(tmp_path / "few/train.phn") == expected and len(expected) > 1
    assert lines(tmp_path / "few/dict.phn.txt") == lines(a / "dict.phn.txt")
    succeed("merge", tmp_path / "both", a, b)
    both = lines(tmp_path / "both/train.phn")
    assert both == lines(a / "train.phn") + lines(b / "train.phn")
    assert symbols(tmp_path / "both", "phn") == ["e", "j", "n", "o", "s"]
    given = published(tmp_path / "dict.phn.txt", ["s 1", "o 1", "n 1", "j 1", "e 1"])
    succeed("merge", tmp_path / "given", a, b, "--dictionary", given)
    assert symbols(tmp_path / "given", "phn") == ["s", "o", "n", "j", "e"]
    assert symbols(tmp_path / "given") == symbols(a)


def test_numbers_of_two_folders_are_not_taken_for_the_same(tmp_path: Path) -> None:
    """Of clusters, or of phones that nothing explains."""
    a, b = (with_phones(write_folder(tmp_path / name), ["0 1"]) for name in ("a", "b"))
    succeed("merge", tmp_path / "both", a, b)
    assert not (tmp_path / "both/train.phn").exists()
    for folder in (a, b):
        (folder / "train.ltr").unlink()
        (folder / "valid.ltr").unlink()
        (folder / "dict.ltr.txt").unlink()
    refused = refuse("merge", tmp_path / "out", a, b)
    assert f"the labels in {a}/dict.phn.txt are numbers, which may stand" in refused


def test_folders_without_labels_in_common_are_not_merged(tmp_path: Path) -> None:
    a, b = write_folder(tmp_path / "a"), write_folder(tmp_path / "b")
    for name in ("train", "valid"):
        (b / f"{name}.ltr").rename(b / f"{name}.phn")
    (b / "dict.ltr.txt").rename(b / "dict.phn.txt")
    refused = refuse("merge", tmp_path / "out", a, b)
    assert "no labels in common" in refused and f"{b} has .phn" in refused
    assert json.dumps(told(a)) and not (tmp_path / "out").exists()
