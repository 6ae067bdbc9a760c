"""Miniatures of GLUE's folders, column for column as download_glue_data.py leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

#: (first sentence, second sentence, label) of each split but the tests, whose labels are unknown.
Example = tuple[str, str, str]

A = 'The "cat sat , on a mat .'
B = "A dog 's \"bone ."


class Layout(NamedTuple):
    """The columns of a task: `{0}` and `{1}` are its sentences, `{2}` the label, `{3}` a number."""

    header: str
    row: str
    test_header: str
    test_row: str
    labels: Sequence[str]
    dev: Sequence[str] = ("dev",)
    test: Sequence[str] = ("test",)
    dev_header: str = ""
    dev_row: str = ""


_MNLI = "\t".join(
    (
        *("index", "promptID", "pairID", "genre", "sentence1_binary_parse"),
        *("sentence2_binary_parse", "sentence1_parse", "sentence2_parse", "sentence1", "sentence2"),
    )
)
_MNLI_ROW = "{3}\t31193\t31193n\tgovernment\t( {0} )\t( {1} )\t(ROOT {0})\t(ROOT {1})\t{0}\t{1}"
_STSB = (
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
    "{3}\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\t{0}\t{1}",
)
_ENTAILED = ("entailment", "not_entailment")

LAYOUTS: Mapping[str, Layout] = {
    "CoLA": Layout("", "gj04\t{2}\t*\t{0}", "index\tsentence", "{3}\t{0}", "01"),
    "SST-2": Layout("sentence\tlabel", "{0}\t{2}", "index\tsentence", "{3}\t{0}", "01"),
    "MRPC": Layout(
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "{2}\t702876\t702977\t{0}\t{1}",
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "{3}\t1089874\t1089925\t{0}\t{1}",
        "01",
    ),
    "QQP": Layout(
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "133273\t213221\t213222\t{0}\t{1}\t{2}",
        "id\tquestion1\tquestion2",
        "{3}\t{0}\t{1}",
        "01",
    ),
    "STS-B": Layout(f"{_STSB[0]}\tscore", f"{_STSB[1]}\t{{2}}", *_STSB, ("5.000", "0.4", "3.8")),
    "MNLI": Layout(
        f"{_MNLI}\tlabel1\tgold_label",
        f"{_MNLI_ROW}\tneutral\t{{2}}",
        _MNLI,
        _MNLI_ROW,
        ("neutral", "entailment", "contradiction"),
        ("dev_matched", "dev_mismatched"),
        ("test_matched", "test_mismatched"),
        f"{_MNLI}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
        f"{_MNLI_ROW}\tneutral\tneutral\tneutral\tneutral\tneutral\t{{2}}",
    ),
    "QNLI": Layout(
        "index\tquestion\tsentence\tlabel",
        "{3}\t{0}\t{1}\t{2}",
        "index\tquestion\tsentence",
        "{3}\t{0}\t{1}",
        _ENTAILED,
    ),
    "RTE": Layout(
        "index\tsentence1\tsentence2\tlabel",
        "{3}\t{0}\t{1}\t{2}",
        "index\tsentence1\tsentence2",
        "{3}\t{0}\t{1}",
        _ENTAILED,
    ),
}


def examples(task: str, count: int) -> list[Example]:
    """`count` examples, whose labels take turns; the first sentence tells its number."""
    labels = LAYOUTS[task].labels
    return [(f"{A} {n}", f"{B} {n}", labels[n % len(labels)]) for n in range(count)]


def write_glue(folder: Path, task: str, *, train: int = 12, dev: int = 6, test: int = 4) -> Path:
    """Write the folder of a task below `folder`, which is returned."""
    layout, place = LAYOUTS[task], folder / task
    place.mkdir(parents=True)
    _write(place / "train.tsv", layout.header, layout.row, examples(task, train))
    for name in layout.dev:
        header, row = layout.dev_header or layout.header, layout.dev_row or layout.row
        _write(place / f"{name}.tsv", header, row, examples(task, dev))
    for name in layout.test:
        _write(place / f"{name}.tsv", layout.test_header, layout.test_row, examples(task, test))
    return folder


def _write(path: Path, header: str, row: str, rows: Sequence[Example]) -> None:
    lines = [header] if header else []
    lines += [row.format(*example, number) for number, example in enumerate(rows)]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def write_pairs_of_bytes(folder: Path) -> Path:
    """GPT-2's three files for 256 bytes and a few pairs of them, numbered as they come."""
    from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode

    merges = ["t h", "th e", "Ġ c", "Ġc a", "Ġca t"]
    symbols = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in merges)]
    folder.mkdir()
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    (folder / "encoder.json").write_text(json.dumps(numbers))
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (folder / "dict.txt").write_text("".join(f"{n} 1\n" for n in reversed(range(len(symbols)))))
    return folder
