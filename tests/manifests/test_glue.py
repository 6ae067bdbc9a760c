"""GLUE's tables become what fairseq's task reads, whatever is in their sentences."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairseq import options
from fairseq.binarizer import FileBinarizer
from fairseq.data import Dictionary, data_utils
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from fairseq_cli import preprocess
from glue_tables import LAYOUTS, examples, write_glue, write_pairs_of_bytes

from speechprune.errors import UserError
from speechprune.manifests.glue.folder import task_of_folder
from speechprune.manifests.glue.preparation import TextSettings, prepare_text
from speechprune.manifests.glue.tables import read_corpus
from speechprune.manifests.glue.tasks import TASKS
from speechprune.manifests.glue.vocabulary import Words, learn_dictionary

WORDS_OF_A = 'the " cat sat , on a mat .'
WORDS_OF_B = "a dog ' s \" bone ."


def load(folder: Path, split: str, classes: int, scores: bool = False) -> tuple[Any, Dictionary]:
    """A split as fairseq's task makes it of a folder, in order, and the dictionary of tokens."""
    cfg = SentencePredictionConfig(
        data=str(folder), num_classes=classes, init_token=0, separator_token=2, no_shuffle=True
    )
    cfg.regression_target, cfg.seed = scores, 1
    task = SentencePredictionTask.setup_task(cfg)
    return task.load_dataset(split), task.source_dictionary


def prepared(folder: Path, out: Path, task: str, **settings: Any) -> Path:
    prepare_text(folder, out, TextSettings(task, min_count=1, **settings), workers=1)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("task", LAYOUTS)
def test_fairseq_reads_each_task(task: str, tmp_path: Path) -> None:
    out = prepared(write_glue(tmp_path / "glue", task), tmp_path / "out", task)
    of = TASKS[task]
    for split, count in {"train": 12, "valid": 6, "valid1": 6, "test": 4, "test1": 4}.items():
        if split not in of.tables:
            assert not list(out.glob(f"*/{split}.*"))
            continue
        data, dictionary = load(out, split, len(of.classes) or 1, of.has_scores)
        assert len(data) == count
        for number, (_, _, label) in enumerate(examples(task, count)):
            example = data[number]
            text = dictionary.string(example["net_input.src_tokens"])
            assert f"{WORDS_OF_A} {number}" in text
            assert (f"{WORDS_OF_B} {number}" in text) == (len(of.inputs) == 2)
            if split.startswith("test"):
                assert "target" not in example
            elif of.has_scores:
                assert example["target"] == pytest.approx([float(label) / 5])
            else:
                assert of.classes[example["target"].item()] == label
    assert task_of_folder(out).name == task
    assert task_of_folder(out).metrics == of.metrics


def test_sentences_are_parted_as_roberta_parts_them(tmp_path: Path) -> None:
    out = prepared(write_glue(tmp_path / "glue", "RTE"), tmp_path / "out", "RTE")
    data, dictionary = load(out, "train", 2)
    first, second = (
        [dictionary.index(word) for word in f"{words} 0".split()]
        for words in (WORDS_OF_A, WORDS_OF_B)
    )
    assert data[0]["net_input.src_tokens"].tolist() == [0, *first, 2, 2, *second, 2]
    sizes = json.loads((out / "provenance.json").read_text())["splits"]
    assert sizes[0]["longest"] == max(len(data[i]["net_input.src_tokens"]) for i in range(12))
    assert sizes[0]["tokens"] == 12 * (len(first) + len(second) + 2)


def preprocess_as_fairseq(folder: Path, lines: dict[str, Sequence[str]], *flags: str) -> Path:
    """What the command `fairseq-preprocess` makes of tokens."""
    folder.mkdir()
    for split, tokens in lines.items():
        (folder / f"{split}.txt").write_text("".join(f"{line}\n" for line in tokens), "utf-8")
    given = [f"--{split}pref={folder / split}.txt" for split in lines]
    parser = options.get_preprocessing_parser()
    preprocess.main(parser.parse_args(["--only-source", *given, f"--destdir={folder}", *flags]))
    return folder


def test_files_are_those_of_fairseq_preprocess(tmp_path: Path) -> None:
    source = write_glue(tmp_path / "glue", "CoLA", train=40, dev=7)
    settings = TextSettings("CoLA", min_count=3)
    prepare_text(source, tmp_path / "out", settings, workers=1)
    splits = {split.name: split for split in read_corpus(source, "CoLA").splits}
    tokens = {name: Words()(splits[name].texts[0]) for name in ("train", "valid", "test")}
    theirs = preprocess_as_fairseq(tmp_path / "theirs", tokens, "--thresholdsrc=3")
    for name in ("dict.txt", "train.bin", "train.idx", "valid.bin", "valid.idx", "test.bin"):
        assert (tmp_path / "out/input0" / name).read_bytes() == (theirs / name).read_bytes(), name
    labels = {name: splits[name].labels or () for name in ("train", "valid")}
    shutil.copy(tmp_path / "out/label/dict.txt", tmp_path / "classes.txt")
    theirs = preprocess_as_fairseq(
        tmp_path / "labels", labels, f"--srcdict={tmp_path / 'classes.txt'}"
    )
    for name in ("dict.txt", "train.bin", "train.idx", "valid.bin", "valid.idx"):
        assert (tmp_path / "out/label" / name).read_bytes() == (theirs / name).read_bytes(), name


@pytest.mark.parametrize("task", ["QQP", "STS-B"])
def test_any_number_of_workers_makes_the_same(task: str, tmp_path: Path) -> None:
    source = write_glue(tmp_path / "glue", task, train=1500)
    made = []
    for workers in (1, 3):
        out = tmp_path / f"out{workers}"
        prepare_text(source, out, TextSettings(task), workers=workers)
        made.append(files(out))
    assert made[0] == made[1] and len(made[0]) > 8


def test_marks_and_line_ends_are_text(tmp_path: Path) -> None:
    """Quotation marks part nothing, and lines end with a line feed alone."""
    folder = tmp_path / "SST-2"
    folder.mkdir()
    rows = ['"unbalanced\t1', "sep\u2028arated\x85by\rothers\t0", "</s> <mask> <unk>\t1", "\t0"]
    table = "\ufeffsentence\tlabel\r\n" + "".join(f"{row}\r\n" for row in rows)
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_bytes(table.encode())
    data, dictionary = load(prepared(tmp_path, tmp_path / "out", "SST-2"), "train", 2)
    found = [data[i]["net_input.src_tokens"].tolist() for i in range(4)]
    words = [[dictionary[number] for number in tokens[1:-1]] for tokens in found]
    assert words == [
        ['"', "unbalanced"],
        ["sep", "arated", "by", "others"],
        ["<", "/", "s", ">", "<", "mask", ">", "<", "unk", ">"],
        [],
    ]
    assert [data[i]["target"].item() for i in range(4)] == [1, 0, 1, 0]
    assert all(number > 3 for tokens in found for number in tokens[1:-1])


def test_words_are_the_same_however_they_are_composed() -> None:
    assert Words()(["Don't cafe\u0301-GOING x2_y …"]) == ["don't café - going x2_y …"]
    assert Words()(["caf\u00e9"]) == Words()(["cafe\u0301"])


def test_a_dictionary_is_learned_of_both_sentences(tmp_path: Path) -> None:
    out = prepared(write_glue(tmp_path / "glue", "QNLI", train=4), tmp_path / "out", "QNLI")
    assert (out / "input0/dict.txt").read_bytes() == (out / "input1/dict.txt").read_bytes()
    lines = (out / "input0/dict.txt").read_text().splitlines()
    counts = dict(line.split() for line in lines)
    assert counts["mat"] == counts["bone"] == "4" and counts["."] == counts["a"] == "8"
    assert len(lines) % 8 == 4  # with fairseq's own four symbols


def test_rare_words_are_left_out() -> None:
    found = learn_dictionary(["b a a c", "c d"], min_count=2)
    assert list(found.items())[:2] == [("a", 2), ("c", 2)]
    assert list(found)[2:] == ["madeupword0000", "madeupword0001"]
    with pytest.raises(UserError, match="lower --min-count"):
        learn_dictionary(["b a a c", "c d"], min_count=3)


def test_byte_pairs_are_gpt2s(tmp_path: Path) -> None:
    pairs = write_pairs_of_bytes(tmp_path / "bpe")
    folder = tmp_path / "SST-2"
    folder.mkdir()
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text("sentence\tlabel\nthe cat é \t0\n cat\t1\n", "utf-8")
    data, dictionary = load(prepared(tmp_path, tmp_path / "out", "SST-2", bpe=pairs), "train", 2)
    numbers = json.loads((pairs / "encoder.json").read_text())
    # The blank before a word is its own; those around a sentence are not its. An é has two bytes.
    for index, symbols in enumerate((["the", "Ġcat", "Ġ", "Ã", "©"], ["c", "a", "t"])):
        tokens = data[index]["net_input.src_tokens"].tolist()[1:-1]
        assert [dictionary[token] for token in tokens] == [str(numbers[s]) for s in symbols]
    assert (tmp_path / "out/input0/dict.txt").read_text() == (pairs / "dict.txt").read_text()


def test_a_given_dictionary_is_that_of_the_folder(tmp_path: Path) -> None:
    source = write_glue(tmp_path / "glue", "SST-2")
    given = tmp_path / "dict.txt"
    given.write_text("mat 9\ncat 7\nsat 7\non 7\nthe 7\n, 1\nunused 1\n. 1\n")
    out = prepared(source, tmp_path / "out", "SST-2", dictionary=given)
    assert (out / "input0/dict.txt").read_text() == given.read_text()
    data, dictionary = load(out, "train", 2)
    assert data[0]["net_input.src_tokens"][8] == dictionary.index("mat") == 4
    assert data[0]["net_input.src_tokens"][2] == dictionary.unk()


def test_classes_keep_the_order_of_a_model(tmp_path: Path) -> None:
    source = write_glue(tmp_path / "glue", "MRPC")
    usual, other = prepared(source, tmp_path / "a", "MRPC"), tmp_path / "b"
    prepare_text(source, other, TextSettings("MRPC", classes=("1", "0")))
    one, two = (load(folder, "train", 2)[0] for folder in (usual, other))
    targets = [[data[i]["target"].item() for i in range(12)] for data in (one, two)]
    assert targets[0] == [0, 1] * 6 and targets[1] == [1, 0] * 6
    assert task_of_folder(other).classes == ("1", "0") and task_of_folder(usual).positive == "1"


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    """Classes and scores, of one sentence and of two, with labels in the test."""
    for name, header, row in (
        ("kind", "label\tsentence", "{label}\ta text {n}"),
        ("rating", "sentence1\tsentence2\tscore", "a text {n}\tb text\t-{n}.5"),
    ):
        (tmp_path / name).mkdir()
        lines = [row.format(n=n, label="xyz"[n % 3]) for n in range(6)]
        for split in ("train", "dev", "test"):
            (tmp_path / name / f"{split}.tsv").write_text("\n".join([header, *lines]) + "\n")
    kind = prepared(tmp_path / "kind", tmp_path / "out", "kind")
    assert task_of_folder(kind).classes == ("x", "y", "z")
    data, _ = load(kind, "test", 3)
    assert [data[n]["target"].item() for n in range(6)] == [0, 1, 2, 0, 1, 2]
    rating = prepared(tmp_path, tmp_path / "out2", "rating", scale=4.0)
    assert task_of_folder(rating).metrics == ("pearson", "spearman")
    data, _ = load(rating, "test", 1, scores=True)
    assert [data[n]["target"] for n in range(6)] == [[-(n + 0.5) / 4] for n in range(6)]


def test_a_few_bad_rows_are_left_out(tmp_path: Path) -> None:
    source = write_glue(tmp_path / "glue", "QQP", train=300)
    table = source / "QQP/train.tsv"
    table.write_text(table.read_text().replace("\tA dog 's \"bone . 7\t", "\t"))
    found = prepare_text(source, tmp_path / "out", TextSettings("QQP"))
    assert found.left_out == (("train", 9, "has 5 columns, not 6"),)
    assert found.splits[0].examples == 299
    data, dictionary = load(tmp_path / "out", "train", 2)
    assert len(data) == 299 and dictionary.string(data[7]["net_input.src_tokens"]).endswith(" 8")
    assert data[7]["target"].item() == 0


def test_a_finished_folder_is_accepted_with_the_same_settings(tmp_path: Path) -> None:
    source, out = write_glue(tmp_path / "glue", "RTE"), tmp_path / "out"
    first = prepare_text(source, out, TextSettings("RTE"))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert prepare_text(source, out, TextSettings("RTE"), resume=True) == first
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(UserError, match="was prepared with min_count 2, not 1"):
        prepare_text(source, out, TextSettings("RTE", min_count=1), resume=True)
    with pytest.raises(UserError, match="exists; choose another folder or add --overwrite"):
        prepare_text(source, out, TextSettings("RTE"))
    (source / "RTE/dev.tsv").write_text((source / "RTE/train.tsv").read_text())
    with pytest.raises(UserError, match="was prepared with tables_sha256"):
        prepare_text(source, out, TextSettings("RTE"), resume=True)
    found = prepare_text(source, out, TextSettings("RTE"), overwrite=True)
    assert found.splits[1].examples == 12


def test_a_folder_of_fairseqs_own_script_is_known(tmp_path: Path) -> None:
    """Without a provenance, and with the symbols that fill up its dictionaries."""
    out = prepared(write_glue(tmp_path / "glue", "MRPC"), tmp_path / "out", "MRPC")
    (out / "provenance.json").unlink()
    (out / "label/dict.txt").write_text("1 8\n0 4\nmadeupword0000 0\nmadeupword0001 0\n")
    assert task_of_folder(out).classes == ("1", "0")
    assert task_of_folder(out).metrics == ("accuracy",)
    named = task_of_folder(out, "MRPC")
    assert (named.classes, named.metrics) == (("1", "0"), ("f1", "accuracy"))
    with pytest.raises(UserError, match="holds classes"):
        task_of_folder(out, "STS-B")
    with pytest.raises(UserError, match="RTE has the classes entailment, not_entailment, not 1, 0"):
        task_of_folder(out, "RTE")
    with pytest.raises(UserError, match="no input0/dict.txt"):
        task_of_folder(tmp_path)
    assert np.array_equal(
        data_utils.load_indexed_dataset(str(out / "label/train"), None)[0], [4, 2]
    )


def test_every_file_is_on_the_disk_before_the_folder_appears(
    tmp_path: Path, disk: list[tuple[str, str]]
) -> None:
    out = prepared(write_glue(tmp_path / "glue", "RTE"), tmp_path / "out", "RTE")
    renamed = disk.index(("rename", str(out)))
    synced = {Path(path).name for what, path in disk[:renamed] if what == "sync"}
    assert {"train.bin", "train.idx", "valid.bin", "test.idx"} <= synced
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_glue(tmp_path / "glue", "RTE")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FileBinarizer, "multiprocess_dataset", full)
    with pytest.raises(UserError, match=r"train\.bin cannot be written: No space left on device"):
        prepared(source, tmp_path / "out", "RTE")
    assert [path.name for path in tmp_path.iterdir()] == ["glue"]
