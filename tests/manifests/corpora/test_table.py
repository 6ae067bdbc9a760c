"""Tables of recordings: Fluent Speech Commands, VoxCeleb's list, and others; rows that are bad."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from corpora import noise

from speechprune.errors import UserError
from speechprune.manifests.classes import read_labelled_split
from speechprune.manifests.corpora.table import TableOfClasses
from speechprune.manifests.report import check_folder
from speechprune.tools.main import commands

INTENT = ("action", "object", "location")
LABELS = tuple(each for slot in INTENT for each in ("--label-column", slot))


def run(*words: object) -> Result:
    return CliRunner().invoke(commands, ["prepare", "table", *map(str, words)])


def write_fluent(root: Path) -> Path:
    """As Fluent Speech Commands is: quoted transcripts with commas, and numbered rows."""
    intents = [("activate", "lights", "none"), ("bring", "newspaper", "bed, room")]
    for split, speaker, count in (("train", "2Bq", 4), ("valid", "4aG", 2), ("test", "7NE", 2)):
        (root / "data").mkdir(parents=True, exist_ok=True)
        with (root / f"data/{split}_data.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["", "path", "speakerId", "transcription", *INTENT])
            for index in range(count):
                path = f"wavs/speakers/{speaker}/{index}.wav"
                noise(root / path, 0.2)
                text = 'Fetch, "please",\nthe thing'
                writer.writerow([index, path, speaker, text, *intents[index % 2]])
    return root


def fluent(root: Path, *words: object) -> Result:
    tables = [
        each
        for name in ("train", "valid", "test")
        for each in (f"--{name}", root / f"data/{name}_data.csv")
    ]
    return run(root, *tables, *LABELS, "--speaker-column", "speakerId", "--workers", 1, *words)


def test_fluent_speech_commands(tmp_path: Path) -> None:
    root = write_fluent(tmp_path / "fluent")
    result = fluent(root, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "slot location: 2 classes" in result.output and "0 of 8 converted" in result.output
    split = read_labelled_split(tmp_path / "out", "valid")
    assert [slot.name for slot in split.slots] == list(INTENT)
    assert [u.labels[2] for u in split.utterances] == ["none", "bed, room"]
    assert {u.speaker for u in split.utterances} == {"4aG"}
    report = check_folder(tmp_path / "out")
    assert not report.errors and not report.warnings, report.describe_in_words()


def write_voxceleb(root: Path) -> Path:
    lines = []
    for speaker in ("id10001", "id10002"):
        for number, split in enumerate((1, 1, 1, 2, 3), start=1):
            path = f"{speaker}/1zcIwhmdeo4/{number:05d}.wav"
            noise(root / "wav" / path, 0.2)
            lines.append(f"{split} {path}\n")
    (root / "iden_split.txt").write_text("".join(lines))
    return root


def test_voxceleb(tmp_path: Path) -> None:
    root = write_voxceleb(tmp_path / "VoxCeleb1")
    words = ["--table", root / "iden_split.txt", "--no-header", "--split-column", 1]
    words += ["--path-column", 2, "--label-column", "speaker=path:1", "--speaker-column", "path:1"]
    words += ["--split", "1=train", "--split", "2=valid", "--split", "3=test"]
    result = run(root / "wav", *words, "--out", tmp_path / "out", "--workers", 1)
    assert result.exit_code == 0, result.output
    for name, count in {"train": 6, "valid": 2, "test": 2}.items():
        split = read_labelled_split(tmp_path / "out", name)
        assert len(split.utterances) == count
        assert all(u.labels == (u.path.split("/")[0],) for u in split.utterances)
        assert split.slots[0].name == "speaker"
    report = check_folder(tmp_path / "out")
    assert not report.errors, report.describe_in_words()


def write_table(path: Path, rows: Sequence[Sequence[str]], separator: str = "\t") -> Path:
    path.write_text("".join(f"{separator.join(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index in range(20):
        noise(tmp_path / "audio" / "ab"[index % 2] / f"{index}.wav", 0.2)
    return tmp_path / "audio"


def rows_of(count: int = 20) -> list[list[str]]:
    header = ["path", "mood", "who", "set"]
    return [header] + [
        [f"{'ab'[i % 2]}/{i}.wav", ("calm", "wild")[i % 2], f"s{i % 5}", ("x", "y")[i % 4 // 2]]
        for i in range(count)
    ]


def read(root: Path, table: Path, **options: Any) -> dict[str, list[tuple[str, ...]]]:
    options = {"label_columns": ("mood",), **options}
    corpus = TableOfClasses(table=table, **options).read(root)
    return {
        split: [(clip.source, clip.transcript, clip.speaker) for clip in clips]
        for split, clips in corpus.splits.items()
    }


@pytest.mark.parametrize(("ending", "separator"), [("tsv", "\t"), ("txt", " "), ("csv", ",")])
def test_columns_go_by_name_or_by_number(root: Path, ending: str, separator: str) -> None:
    named = write_table(root / f"named.{ending}", rows_of(), separator)
    bare = write_table(root / f"bare.{ending}", rows_of()[1:], separator)
    expected = {
        split: [(p, mood, who) for p, mood, who, each in rows_of()[1:] if each == split]
        for split in "xy"
    }
    by_name = {"split_column": "set", "speaker_column": "who"}
    assert read(root, named, **by_name) == expected
    by_number = {"split_column": "4", "speaker_column": "3", "path_column": "1"}
    numbered = read(root, bare, no_header=True, label_columns=("mood=2",), **by_number)
    assert numbered == expected
    renamed = read(root, named, renamed=("x=train", "y=test"), **by_name)
    assert renamed == {"train": expected["x"], "test": expected["y"]}


def test_the_separator_can_be_told(root: Path) -> None:
    table = write_table(root / "list.dat", rows_of(), "\t")
    assert len(read(root, table, separator="tab", split_column="set")["x"]) == 10
    with pytest.raises(UserError, match="unknown column 'path'"):
        read(root, table, split_column="set")


@pytest.mark.parametrize(
    ("part", "expected"), [("path:1", "a"), ("path:-2", "a"), ("path:2", "0.wav")]
)
def test_a_class_may_be_part_of_the_path(root: Path, part: str, expected: str) -> None:
    table = write_table(root / "t.tsv", rows_of())
    found = read(root, table, label_columns=(f"folder={part}",), split_column="set", renamed=())
    assert found["x"][0][:2] == ("a/0.wav", expected)


def test_parts_of_a_path_are_those_of_the_recording_however_it_is_spelt(root: Path) -> None:
    rows = [[f"./{row[0].replace('/', '//')}", *row[1:]] for row in rows_of()[1:]]
    table = write_table(root / "t.tsv", [rows_of()[0], *rows])
    found = read(root, table, label_columns=("folder=path:1",), split_column="set")
    assert {clip[:2] for clip in found["x"]} >= {("a/0.wav", "a"), ("b/1.wav", "b")}


def test_splits_are_drawn_where_there_are_none(root: Path) -> None:
    table = write_table(root / "t.tsv", rows_of())
    found = read(root, table)
    assert {split: len(clips) for split, clips in found.items()} == {
        **{"train": 16, "valid": 2, "test": 2}
    }
    by_speaker = read(root, table, speaker_column="who", shares="train=0.6,test=0.4")
    speakers = [{clip[2] for clip in clips} for clips in by_speaker.values()]
    assert not speakers[0] & speakers[1]


def test_paths_may_be_absolute_if_they_are_below_the_folder(root: Path, tmp_path: Path) -> None:
    rows = [[str(root / row[0]), *row[1:]] for row in rows_of()[1:]]
    found = read(root, write_table(root / "t.tsv", [rows_of()[0], *rows]), split_column="set")
    assert found["x"][0][0] == "a/0.wav"
    rows[0][0] = str(tmp_path / "elsewhere.wav")
    with pytest.raises(UserError, match="would lie outside of the new folder"):
        read(root, write_table(root / "t.tsv", [rows_of()[0], *rows]), split_column="set")


BAD_ROWS = {
    "short": (["a/0.wav", "calm"], "t.tsv line 2 in train, which has 2 column(s), not 4"),
    "no class": (["a/0.wav", " ", "s0", "x"], "which has nothing in column 'mood'"),
    "no path": (["", "calm", "s0", "x"], "which has nothing in column 'path'"),
    "no audio": (["a/99.wav", "calm", "s0", "x"], "a/99 in train, which cannot be opened: No such"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_left_out_and_listed(root: Path, tmp_path: Path, kind: str) -> None:
    row, told = BAD_ROWS[kind]
    table = write_table(root / "t.tsv", [rows_of()[0], row, *rows_of()[2:]])
    words = [root, "--table", table, "--label-column", "mood", "--out", tmp_path / "out"]
    words += ["--workers", 1]
    refused = run(*words)
    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
    assert "1 of 20 clips cannot be used" in refused.output and told in refused.output
    assert not (tmp_path / "out").exists()
    taken = run(*words, "--max-bad", 0.1)
    assert taken.exit_code == 0 and taken.output.count("left out: ") == 1, taken.output
    assert check_folder(tmp_path / "out").errors == 0


def test_a_row_whose_split_nobody_knows_is_listed(root: Path, tmp_path: Path) -> None:
    table = write_table(root / "t.tsv", [*rows_of(), ["a/0.wav", "calm"]])
    words = ["--label-column", "mood", "--split-column", "set", "--out", tmp_path / "out"]
    result = run(root, "--table", table, *words, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "left out: t.tsv line 22 in t.tsv, which has 2 column(s), not 4" in result.output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"label_columns": ("moot",)}, "t.tsv: unknown column 'moot'; did you mean 'mood'?"),
        ({"path_column": "paths"}, "unknown column 'paths'; did you mean 'path'?"),
        ({"split_column": "sett"}, "unknown column 'sett'; did you mean 'set'?"),
        ({"label_columns": ()}, "Give --label-column"),
        ({"label_columns": ("mood", "mood=who")}, "two slots are called 'mood'"),
        ({"label_columns": ("mood=path:9",)}, r"t.tsv line 2 has a path of 2 part.s., not that of"),
        ({"train": Path("x.csv")}, "Give --table, or one of"),
        ({"table": None}, "Give --table, or one of"),
        ({"table": None, "train": Path("x"), "split_column": "set"}, "is for --table alone"),
        ({"split_column": "set", "renamed": ("train",)}, "--split train: expected VALUE=SPLIT"),
        ({"split_column": "set", "renamed": ("x=a/b",)}, "'a/b' cannot be the name of a split"),
        ({"split_column": "path"}, "'a/0.wav' cannot be the name of a split"),
        ({"split_column": "set", "renamed": ("x=a", "x=b")}, "--split gives 'x' two names"),
        ({"renamed": ("x=train",)}, "--split x=train has no effect without --split-column"),
        (
            {"split_column": "set", "renamed": ("z=train",)},
            "z=train: .*unknown split 'z'; known: x",
        ),
        (
            {"split_column": "set", "shares": "a=0.5,b=0.5"},
            "--shares a=0.5,b=0.5 draws splits, but",
        ),
        ({"table": None, "train": Path("x"), "by": "utterance"}, "splits have tables of their own"),
        ({"split_column": "mood", "renamed": ("calm=train",)}, "no utterance to train on has"),
    ],
)
def test_refusals(root: Path, options: dict[str, Any], complaint: str) -> None:
    table = write_table(root / "t.tsv", rows_of())
    given = {"table": table, "label_columns": ("mood",), **options}
    with pytest.raises(UserError, match=complaint) as caught:
        TableOfClasses(**given).read(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("path,mood\n", "has no row"),
        ("", "has no row"),
        ('path,mood\na/0.wav,calm\n"a/1.wav,wild\n', "line 3: unexpected end of data"),
        ('path,mood\na/0.wav,"calm\tdown"\n', r"t.csv line 2: 'calm\\tdown' cannot be a class"),
        ('path,mood\na/0.wav,"calm\ndown"\n', r"t.csv line 3: 'calm\\ndown' cannot be a class"),
        ("path,mood,mood\na/0.wav,calm,wild\n", "t.csv: 2 columns are called 'mood'"),
        (b"path,mood\na/0.wav,\xff\n", "is not UTF-8"),
        ("path,mood\na/0.wav,calm\na/2.wav,calm\na/4.wav,calm\n", "has only the class 'calm'"),
        ("path,mood\n" + 9 * "a/0.wav,calm\na/1.wav,wild\n", "two clips are called 'a/[01]'"),
    ],
)
def test_bad_tables_are_refused(root: Path, content: str | bytes, complaint: str) -> None:
    content = content if isinstance(content, bytes) else content.encode()
    (root / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        read(root, root / "t.csv", shares="train=0.7,test=0.3")
    assert "\n" not in str(caught.value)
