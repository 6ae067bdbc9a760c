"""`speechprune manifest`: folders made of others, which can be trained on and tell their origin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from manifest_folders import (
    TRAIN,
    VALID,
    contents,
    edit,
    lines,
    refuse,
    succeed,
    told,
    write_folder,
)

from speechprune.manifests.partition import assign

# 60 utterances of 0.05 to 0.2 s by 12 speakers; 6 seconds and more.
MANY = [("NO", f"s{i % 12:02d}", 800 + 37 * (i * 7 % 65)) for i in range(60)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "mañy corpora" / "es"
    return write_folder(folder, {"train": MANY, "valid": VALID}, {"language": "es"})


def seconds(folder: Path, split: str) -> float:
    return sum(int(row.split("\t")[1]) for row in lines(folder / f"{split}.tsv")[1:]) / 16000


def rows(folder: Path, split: str) -> list[tuple[str, ...]]:
    """Row, label, words and speaker of each utterance."""
    columns = [lines(folder / f"{split}.{ending}") for ending in ("tsv", "ltr", "wrd", "spk")]
    return list(zip(columns[0][1:], *columns[1:]))


def test_stats_count(tmp_path: Path) -> None:
    folder, figure = write_folder(tmp_path / "a corpus"), tmp_path / "lengths.png"
    found = json.loads(succeed("stats", folder, "--json", "--figure", figure))["splits"]["train"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert found["utterances"] == 4
    lengths = [found[key] for key in ("shortest", "median", "mean", "longest")]
    assert lengths == pytest.approx([0.05, 0.125, 0.125, 0.2])
    assert (found["words"], found["speakers"], found["distinct_symbols"]) == (7, 3, 7)
    assert list(found["symbols"].items())[:5] == list(zip("|NEOS", (7, 5, 4, 4, 3)))
    assert found["symbols_per_second"] == pytest.approx(sum(found["symbols"].values()) / 0.5)
    text = succeed("stats", folder).splitlines()
    assert [line.split()[:2] for line in text[1:3]] == [["train", "4"], ["valid", "2"]]
    assert text[5].split() == ["|", "7", "3", "10"]


def test_stats_of_units_without_words_or_speakers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "u", {"train": [("a b", "", 800)]}, units=True)
    (folder / "train.wrd").unlink()
    found = json.loads(succeed("stats", folder, "--json"))["splits"]["train"]
    assert (found["words"], found["speakers"], found["symbols"]) == (None, None, {"a": 1, "b": 1})


def test_a_subset_is_drawn_and_the_rest_is_kept(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "es 3s"
    succeed("subset", many, out, "--minutes", 0.05, "--name", "train-3s")
    assert 2.9 < seconds(out, "train-3s") <= 3.0
    drawn = rows(out, "train-3s")
    assert set(drawn) < set(rows(many, "train")) and drawn == sorted(drawn)
    before, after = contents(many), contents(out)
    for name in ("dict.ltr.txt", "valid.tsv", "valid.ltr", "valid.wrd", "valid.spk"):
        assert after[name] == before[name]
    assert not [name for name in after if name.startswith("train.")]
    succeed("check", out)
    provenance = told(out)
    source = {"folder": "es", "provenance": told(many)}
    assert (provenance["source"], provenance["language"]) == (source, "es")
    assert (provenance["operation"], provenance["seed"]) == ("subset", 1)
    assert provenance["splits"]["train-3s"]["utterances"] == len(drawn)
    assert str(tmp_path) not in json.dumps(provenance)


def test_a_subset_depends_on_its_seed_alone(many: Path, tmp_path: Path) -> None:
    options = ("--minutes", "0.05", "--seed")
    for seed in (1, 2):
        succeed("subset", many, tmp_path / str(seed), *options, seed)
    command = [sys.executable, "-m", "speechprune.tools.main", "manifest", "subset", many]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([*command, tmp_path / "again", *options, "1"], env=environment, check=True)
    assert contents(tmp_path / "1") == contents(tmp_path / "again")
    assert rows(tmp_path / "1", "train") != rows(tmp_path / "2", "train")


def test_labels_of_someone_else_are_not_respelt(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "foreign")
    edit(folder / "train.ltr", "N O | Y", "N O | | |  Y")
    for name in ("train.wrd", "train.spk", "valid.spk", "provenance.json"):
        (folder / name).unlink()
    (folder / "dict.ltr.txt").write_text("".join(f"{s} 1\n" for s in "|ONYESVX"))
    total = seconds(folder, "train")
    succeed("subset", folder, tmp_path / "all", "--minutes", total / 60)
    assert lines(tmp_path / "all" / "train.ltr") == lines(folder / "train.ltr")
    assert sorted(contents(tmp_path / "all")) == sorted([*contents(folder), "provenance.json"])
    assert told(tmp_path / "all")["source"] == {"folder": "foreign", "provenance": None}
    options = ("--into", "train=0.5,dev=0.5", "--by", "utterance")
    succeed("split", folder, tmp_path / "cut", *options)
    labels = [lines(tmp_path / "cut" / f"{name}.ltr") for name in ("train", "dev")]
    assert sorted(labels[0] + labels[1]) == sorted(lines(folder / "train.ltr"))
    for out in ("all", "cut"):
        assert contents(tmp_path / out)["dict.ltr.txt"] == contents(folder)["dict.ltr.txt"]


def test_a_split_keeps_speakers_apart(many: Path, tmp_path: Path) -> None:
    options = ("--into", "train=0.7,dev=0.2,test=0.1")
    parts = {}
    for seed in (1, 2):
        out = tmp_path / str(seed)
        succeed("split", many, out, *options, "--seed", seed)
        parts[seed] = {name: rows(out, name) for name in ("train", "dev", "test")}
        joined = [row for part in parts[seed].values() for row in part]
        assert sorted(joined) == rows(many, "train")
        speakers = [{row[-1] for row in part} for part in parts[seed].values()]
        assert sum(map(len, speakers)) == 12
        shares = [seconds(out, name) / seconds(many, "train") for name in parts[seed]]
        assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.05)
        assert all(part == sorted(part) for part in parts[seed].values())
        succeed("check", out)
    assert parts[1] != parts[2]
    assert told(tmp_path / "1")["into"] == {"train": 0.7, "dev": 0.2, "test": 0.1}
    succeed("split", many, tmp_path / "1", *options, "--overwrite", "--seed", 2)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_no_part_of_a_split_is_empty() -> None:
    for seed in range(20):
        assert sorted(assign([100, 1, 1], [0.98, 0.01, 0.01], seed)) == [0, 1, 2]
        assert sorted(assign([50, 50], [0.9, 0.1], seed)) == [0, 1]


def test_hours_come_close_to_their_shares() -> None:
    sizes = [(i * 7919) % 1000 + 1 for i in range(500)]
    shares = [0.9, 0.06, 0.04]
    parts = assign(sizes, shares, 3)
    for part, share in enumerate(shares):
        held = sum(size for size, where in zip(sizes, parts) if where == part)
        assert held / sum(sizes) == pytest.approx(share, rel=0.02)
    # Not only those who say little.
    held_out = [size for size, where in zip(sizes, parts) if where == 2]
    assert sum(held_out) / len(held_out) > 300


def test_languages_are_pooled(many: Path, tmp_path: Path) -> None:
    french = write_folder(tmp_path / "fr", {"train": TRAIN, "test": [("ÉTÉ", "s01", 800)]})
    out = tmp_path / "both"
    succeed("merge", out, many, french)
    succeed("check", out)
    assert told(out)["languages"] == {
        "train": [["es", 60], ["fr", 4]],
        "valid": [["es", 2]],
        "test": [["fr", 1]],
    }
    assert sorted(told(out)["splits"]) == ["test", "train", "valid"]
    labels, speakers = (
        lines(many / f"train.{e}") + lines(french / f"train.{e}") for e in ("ltr", "spk")
    )
    assert lines(out / "train.ltr") == labels
    tags = ["es"] * 60 + ["fr"] * 4
    assert lines(out / "train.spk") == [f"{tag}/{name}" for tag, name in zip(tags, speakers)]
    root, *paths = (line.partition("\t")[0] for line in lines(out / "train.tsv"))
    assert root == os.path.commonpath([many, french])
    assert len(set(paths)) == 64 and all((Path(root) / path).is_file() for path in paths)
    counts = [dict(line.split() for line in lines(f / "dict.ltr.txt")) for f in (many, french)]
    joint = [(s, int(count)) for s, count in map(str.split, lines(out / "dict.ltr.txt"))]
    assert dict(joint) == {
        s: sum(int(known.get(s, 0)) for known in counts) for s in counts[0] | counts[1]
    }
    assert joint == sorted(joint)


def test_languages_are_told_after_further_operations(tmp_path: Path) -> None:
    a, b, c = (write_folder(tmp_path / name) for name in ("aa", "bb", "cc"))
    ab, abc, drawn = tmp_path / "ab", tmp_path / "abc", tmp_path / "drawn"
    succeed("merge", ab, a, b, "--language", "xx", "--language", "yy")
    succeed("merge", abc, ab, c)
    assert told(abc)["languages"]["train"] == [["xx", 4], ["yy", 4], ["cc", 4]]
    assert set(lines(abc / "valid.spk")) == {"xx/zoe", "yy/zoe", "cc/zoe"}
    succeed("subset", abc, drawn, "--minutes", 0.01, "--name", "few")
    languages = told(drawn)["languages"]
    assert languages["valid"] == [["xx", 2], ["yy", 2], ["cc", 2]]
    tags = [tag for tag, count in languages["few"] for _ in range(count)]
    assert tags == [speaker.partition("/")[0] for speaker in lines(drawn / "few.spk")]
    assert len(languages["few"]) == len(set(tags)) > 1


def test_speakers_of_two_corpora_in_one_language_are_told_apart(tmp_path: Path) -> None:
    described = {"a": "A", "b": "B", "again": "A", "unknown": None}
    made = {
        name: write_folder(
            tmp_path / name, None, {"language": "en", "corpus": corpus} if corpus else {}
        )
        for name, corpus in described.items()
    }
    succeed("subset", made["b"], tmp_path / "drawn", "--minutes", 0.008)
    languages = ["--language", "en", "--language", "en"]
    succeed("merge", tmp_path / "two", made["a"], tmp_path / "drawn", *languages)
    assert set(lines(tmp_path / "two/valid.spk")) == {"en/A/zoe", "en/B/zoe"}
    succeed("merge", tmp_path / "one", made["a"], made["again"])
    assert set(lines(tmp_path / "one/valid.spk")) == {"en/zoe"}
    succeed("merge", tmp_path / "unsaid", made["a"], made["unknown"], *languages)
    assert set(lines(tmp_path / "unsaid/valid.spk")) == {"en/zoe"}


def test_lines_of_a_merged_folder_are_sorted_within_each_language(tmp_path: Path) -> None:
    a, b = (write_folder(tmp_path / name) for name in ("aa", "bb"))
    for name, head in (("tsv", 1), ("ltr", 0), ("wrd", 0)):
        found = lines(a / f"train.{name}")
        turned = [*found[:head], *reversed(found[head:])]
        (a / f"train.{name}").write_text("".join(f"{line}\n" for line in turned))
    (a / "train.spk").unlink()
    (b / "train.wrd").unlink()
    succeed("merge", tmp_path / "out", a, b)
    assert rows(tmp_path / "out", "train") == [
        (f"{name}/audio/train/{i:03d}.flac\t{n}", spelt, text, who)
        for name, speakers in (("aa", [""] * 4), ("bb", ["bb/ann", "bb/ann", "bb/bob", "bb/eve"]))
        for i, ((text, _, n), spelt, who) in enumerate(zip(TRAIN, lines(b / "train.ltr"), speakers))
    ]


REFUSALS = {
    "subset {many} {out} --minutes 5": "minutes, less than --minutes 5",
    "subset {many} {out} --minutes 0.0001": "is as short as",
    "subset {many} {out} --minutes 0": "--minutes",
    "subset {many} {out} --minutes nan": "nan is not a finite number",
    "subset {many} {out} --minutes 0.01 --split trian": "did you mean 'train'",
    "subset {many} {out} --minutes 0.01 --name valid": "has a split 'valid' already",
    "subset {many} {out} --minutes 0.01 --name ../x": "cannot be the name of a split",
    "subset {many} {many} --minutes 0.01 --overwrite": "would be lost",
    "subset {many} {parent} --minutes 0.01 --overwrite": "would be lost",
    "subset {many} {same} --minutes 0.01": "exists; choose another folder or add --overwrite",
    "subset {parent} {out} --minutes 0.01": "holds no SPLIT.tsv",
    "split {many} {out} --into train=0.5,test=0.4": "sum to 1",
    "split {many} {out} --into train=nan,test=nan": "sum to 1",
    "split {many} {out} --into train=1": "two or more",
    "split {many} {out} --into train=0.5,train=0.5": "two parts are called 'train'",
    "split {many} {out} --into train": "is not NAME=SHARE",
    "split {many} {out} --into train=0.5,valid=0.5": "has a split 'valid' already",
    "split {silent} {out} --into a=0.5,b=0.5": "train.spk is missing; add it, or use --by",
    "split {partly} {out} --into a=0.5,b=0.5": "train.spk line 1 names no speaker",
    "split {same} {out} --into a=0.4,b=0.2,c=0.2,d=0.2": "has 3 speaker(s) for 4 parts",
    "split {short} {out} --into a=0.5,b=0.5": "train.wrd has 3 lines for 4 recordings",
    "merge {out} {many}": "at least two folders",
    "merge {out} {many} {units}": "are letters",
    "merge {out} {many} {many}": "is in split train of",
    "merge {out} {same} {other}/same": "do not say their languages; give --language",
    "merge {out} {same} {many} --language es": "1 --language for 2 folders",
    "merge {same} {same} {many} --overwrite": "would be lost",
    "merge {out} {same} {short}": "train.wrd has 3 lines for 4 recordings",
    "merge {out} {same} {untagged}": "merge the corpora again",
    "merge {out} {same} {garbled}": "provenance.json is not JSON",
    "merge {out} {same} {other}/gone": "no folder",
    "merge {out} {same} {parent}": "holds no SPLIT.tsv",
    "check {out}": "no folder",
    "stats {short}": "train.wrd has 3 lines for 4 recordings",
    "stats {same} --figure {out}/lengths.png": "cannot be written",
    "stats {short} --figure {out}/lengths.jpg": "lengths.jpg cannot be drawn; name a file that",
}


@pytest.fixture(scope="module")
def folders(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What refusals are about."""
    tmp_path = tmp_path_factory.mktemp("refused")
    made = {n: write_folder(tmp_path / n) for n in ("same", "silent", "partly", "short")}
    write_folder(tmp_path / "other" / "same")
    made["units"] = write_folder(tmp_path / "units", units=True)
    made["untagged"] = write_folder(tmp_path / "t", None, {"languages": {"train": [["es", 3]]}})
    made["garbled"] = write_folder(tmp_path / "garbled")
    (made["garbled"] / "provenance.json").write_text("{")
    (made["silent"] / "train.spk").unlink()
    edit(made["partly"] / "train.spk", "ann", "")
    edit(made["short"] / "train.wrd", "ON\n", "")
    others = {"other": tmp_path / "other", "out": tmp_path / "out"}
    return {**made, **others, "many": many, "parent": many.parent}


@pytest.mark.parametrize("arguments", REFUSALS)
def test_mistakes_are_told_in_one_line_and_leave_nothing(
    folders: dict[str, Path], arguments: str
) -> None:
    def found() -> list[tuple[Path, int]]:
        files = [f for root in ("other", "parent") for f in folders[root].parent.rglob("*")]
        return sorted((file, file.stat().st_mtime_ns) for file in files if file.is_file())

    before = found()
    words = (word.format(**folders) for word in arguments.split())
    assert REFUSALS[arguments] in refuse(*words)
    assert found() == before
    assert not folders["out"].exists()
