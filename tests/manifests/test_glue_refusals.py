"""What is wrong with tables, dictionaries and settings of sentences ends in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from glue_tables import write_glue, write_pairs_of_bytes

from speechprune.manifests.glue.tables import read_table
from speechprune.manifests.provenance import read_provenance
from speechprune.tools.main import commands

Change = Callable[[Path], object]


def run(*words: object) -> Result:
    return CliRunner().invoke(commands, ["prepare", "glue", *map(str, words)])


def refusal(folder: Path, *words: object) -> str:
    """The one line that a preparation ends in; nothing is left behind."""
    before = sorted(folder.rglob("*"))
    result = run(folder, *words, "--out", folder / "out", "--workers", 1)
    assert result.exit_code == 1, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("speechprune: error: ") and sorted(folder.rglob("*")) == before
    return line


def replaced(path: Path, old: str, new: str, count: int = -1) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), encoding="utf-8")


@pytest.mark.parametrize(
    "task, change, expected",
    [
        ("RTE", lambda f: (f / "train.tsv").unlink(), "RTE/train.tsv is missing; name the folder"),
        ("RTE", lambda f: (f / "dev.tsv").unlink(), "dev.tsv is missing; download it again"),
        ("MNLI", lambda f: (f / "dev_mismatched.tsv").unlink(), "dev_mismatched.tsv is missing"),
        ("RTE", lambda f: (f / "dev.tsv").write_text(""), "dev.tsv has no rows"),
        ("RTE", lambda f: (f / "dev.tsv").write_text("index\tsentence1\n"), "dev.tsv has no rows"),
        ("RTE", lambda f: (f / "train.tsv").write_bytes(b"\xff\xfe\n"), "is not UTF-8 text"),
        (
            "RTE",
            lambda f: replaced(f / "train.tsv", "sentence1", "sentence_1"),
            "train.tsv: unknown column 'sentence1'; did you mean 'sentence_1'?",
        ),
        (
            "RTE",
            lambda f: replaced(f / "train.tsv", "\tnot_entailment", "", 1),
            "1 of 22 rows cannot be used, more than --max-bad 0.01; the first is line 3 of train, "
            "which has 3 columns, not 4",
        ),
        (
            "RTE",
            lambda f: replaced(f / "test.tsv", "2\tThe", "2 The"),
            "test.tsv line 4 has 2 columns, not 3; a test set without labels is used as a whole",
        ),
        (
            "RTE",
            lambda f: replaced(f / "dev.tsv", "not_entailment", "neutral", 1),
            "dev.tsv line 3: label 'neutral' is not one of the classes entailment, not_entailment",
        ),
        (
            "RTE",
            lambda f: replaced(f / "train.tsv", "not_entailment", "entailment"),
            "train.tsv is of class 'not_entailment'",
        ),
        (
            "CoLA",
            lambda f: replaced(f / "train.tsv", "gj04\t1", "gj04\t-1"),
            "train.tsv line 2: label '-1' is not one of the classes 0, 1",
        ),
        ("STS-B", lambda f: replaced(f / "dev.tsv", "5.000", "5.1"), "not a number from 0 to 5"),
        ("STS-B", lambda f: replaced(f / "dev.tsv", "5.000", "nan"), "is not a finite number"),
        ("STS-B", lambda f: replaced(f / "dev.tsv", "0.4", ""), "line 3: score '' is not a number"),
    ],
)
def test_bad_tables(task: str, change: Change, expected: str, tmp_path: Path) -> None:
    change(write_glue(tmp_path, task) / task)
    assert expected in refusal(tmp_path, "--task", task)


def test_an_empty_line_is_a_row(tmp_path: Path) -> None:
    """Predictions of what follows would belong to other rows without it."""
    (tmp_path / "test.tsv").write_text("sentence\nred\n\nblue\n\n")
    assert read_table(tmp_path / "test.tsv").rows == [(2, ["red"]), (3, [""]), (4, ["blue"])]
    folder = write_glue(tmp_path, "RTE") / "RTE" / "test.tsv"
    folder.write_text(folder.read_text().replace("\n", "\n\n", 2))
    assert "test.tsv line 2 has 1 columns, not 3" in refusal(tmp_path, "--task", "RTE")


@pytest.mark.parametrize(
    "table, expected",
    [
        ("sentence\tlabels\na\tx\nb\ty\n", "mine has the columns sentence, labels; give it"),
        ("sentence\tlabel\tscore\na\tx\t1\n", "has the columns sentence, label, score"),
        ("text\tlabel\na\tx\nb\ty\n", "has the columns text, label"),
        ("sentence\tlabel\na\tx\nb\tx\n", "the training set of mine has 1 class(es)"),
        ("sentence\tlabel\na\tx\nb\ty z\n", "'y z' cannot be a class of mine"),
        ("sentence\tlabel\na\tx\nb\t</s>\n", "'</s>' cannot be a class of mine"),
        ("sentence\tlabel\na\tx\nb\t\n", "'' cannot be a class of mine"),
        ("sentence\tscore\na\t1\nb\tinf\n", "'inf' is not a finite number"),
        ("sentence\tlabel\tlabel\na\tx\ty\n", "train.tsv has two columns 'label'; rename one"),
        ("sentence\tlabel\n?\tx\n\u00ad\ty\n", "a word is in the training set"),
    ],
)
def test_bad_tables_of_ones_own(table: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "mine" / f"{name}.tsv").write_text(table, encoding="utf-8")
    if "word" not in expected:
        assert expected in refusal(tmp_path, "--task", "mine")
    else:
        assert "lower --min-count" in refusal(tmp_path, "--task", "mine", "--min-count", 2)


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--task", "SST2"], "unknown task 'SST2'; did you mean 'SST-2'?"),
        (["--task", "sts_b"], "unknown task 'sts_b'; did you mean 'STS-B'?"),
        (["--task", "../SST-2"], "did you mean 'SST-2'?"),
        (["--task", "a/b"], "'a/b' cannot be the name of a task"),
        (["--task", "SST-2", "--classes", "0,2"], "SST-2 has the classes 0, 1, not 0, 2"),
        (["--task", "SST-2", "--classes", "0"], "SST-2 has the classes 0, 1, not 0"),
        (["--task", "SST-2", "--scale", "2"], "SST-2 has classes, not scores"),
        (["--task", "SST-2", "--bpe", "gone"], "gone/encoder.json is missing; --bpe names the"),
        (["--task", "SST-2", "--dictionary", "gone.txt"], "gone.txt is missing"),
        (["--task", "SST-2", "--bpe", "b", "--dictionary", "d"], "choose one"),
        (["--task", "SST-2", "--resume", "--overwrite"], "choose one"),
        (["--task", "SST-2", "--min-count", "13"], "lower --min-count, or give more text"),
    ],
)
def test_bad_settings(words: list[str], expected: str, tmp_path: Path) -> None:
    assert expected in refusal(write_glue(tmp_path, "SST-2"), *words)


def test_scores_have_no_classes(tmp_path: Path) -> None:
    words = "--task", "STS-B", "--classes", "0,1"
    assert "STS-B has scores, not classes" in refusal(write_glue(tmp_path, "STS-B"), *words)


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda f: (f / "vocab.bpe").unlink(), "vocab.bpe is missing"),
        (lambda f: (f / "encoder.json").write_text("{"), "does not hold GPT-2's byte pairs"),
        (lambda f: (f / "encoder.json").write_text("[]"), "does not hold GPT-2's byte pairs"),
        (lambda f: (f / "encoder.json").write_text('{"a": "b"}'), "is not JSON of the form"),
        (lambda f: (f / "dict.txt").write_text("a 1\nb 1\n"), "has none of the numbers of"),
        (lambda f: (f / "dict.txt").write_text("a b\n"), "expected `symbol count`"),
        (
            lambda f: (f / "encoder.json").write_text(json.dumps({"t": 0, "h": 1})),
            "has no number for ",
        ),
    ],
)
def test_bad_byte_pairs(change: Change, expected: str, tmp_path: Path) -> None:
    change(write_pairs_of_bytes(tmp_path / "bpe"))
    write_glue(tmp_path, "SST-2")
    assert expected in refusal(tmp_path, "--task", "SST-2", "--bpe", tmp_path / "bpe")


def test_a_dictionary_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dict.txt").write_text("AA 5\nBB 3\n| 2\n. 1\n")
    write_glue(tmp_path, "SST-2")
    line = refusal(tmp_path, "--task", "SST-2", "--dictionary", tmp_path / "dict.txt")
    assert "dict.txt lacks 108 of the 132 tokens of the training set" in line


def test_tables_and_other_folders_are_not_replaced(tmp_path: Path) -> None:
    write_glue(tmp_path, "SST-2")
    result = run(tmp_path, "--task", "SST-2", "--out", tmp_path / "SST-2", "--overwrite")
    assert result.exit_code == 1 and "SST-2 lies in" in result.output
    (tmp_path / "other").mkdir()
    (tmp_path / "other/note").write_text("")
    result = run(tmp_path, "--task", "SST-2", "--out", tmp_path / "other", "--overwrite")
    assert result.exit_code == 1 and "is not a prepared corpus" in result.output
    assert (tmp_path / "SST-2/train.tsv").exists() and (tmp_path / "other/note").exists()


def test_the_command_says_what_it_made(tmp_path: Path) -> None:
    source = write_glue(tmp_path / "glue", "SST-2")
    words = source, "--task", "SST-2", "--out", tmp_path / "out"
    result = run(*words)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].split() == ["split", "examples", "labels", "tokens", "unknown", "longest"]
    # A number of the six that the training set has once, and validation with it.
    assert lines[1].split() == ["train", "12", "yes", "132", "9.09", "%", "12"]
    assert lines[2].split()[:3] == ["valid", "6", "yes"]
    assert lines[3].split()[:3] == ["test", "4", "no"]
    assert lines[4] == "tokens: words in lower case, 12 in the dictionary of the training set"
    assert run(*words, "--resume").output == result.output
    provenance = read_provenance(tmp_path / "out")
    assert provenance["task"]["metrics"] == ["accuracy"]
    assert provenance["splits"][2]["labelled"] is False
