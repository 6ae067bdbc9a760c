"""Error rates stand under the names of what was measured, beside others on the same data alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import rewrite
from click.testing import CliRunner, Result
from labelled import write_tones
from nano import write_corpus, write_finetuned, write_wav2vec2
from page_reading import Node, read_page

from speechprune.files import digest
from speechprune.manifests.split_files import split_digest
from speechprune.tools.main import commands

HEAD = "Every model that was measured"


class Bench:
    """Runs that nobody trained: one writes letters, one units; and a model for labels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.tones = write_corpus(folder / "data", train=2, valid=3), folder / "tones"
        write_tones(self.tones)
        write_units(self.data)
        self.pretrained = write_wav2vec2(folder / "pretrained.pt")
        self.letters, self.units = self.run("letters", "ltr"), self.run("units", "phn")
        self.labels = write_finetuned(
            folder / "labels.pt",
            self.pretrained,
            self.tones,
            model={"_name": "wav2vec_labels"},
            task={"_name": "audio_labels", "seed": 1, "train_subset": "train"},
        )

    def run(self, name: str, labels: str) -> Path:
        last = self.folder / "runs" / name / "checkpoints" / "checkpoint_last.pt"
        last.parent.mkdir(parents=True)
        task = {"_name": "audio_finetuning", "labels": labels}
        write_finetuned(last, self.pretrained, self.data, task=task)
        planned = {"dataset": {"train_subset": "train"}, "optimization": {"max_update": 1}}
        rewrite(last, lambda state: state["cfg"].update(planned))
        return last.parent.parent


def write_units(data: Path) -> None:
    """Beside the letters of a corpus, the same without words."""
    for split in ("train", "valid"):
        letters = (data / f"{split}.ltr").read_text()
        (data / f"{split}.phn").write_text(letters.replace("| ", "").replace(" |", ""))
    (data / "dict.phn.txt").write_text("".join(f"{letter} 1\n" for letter in "ABCDE"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("rates"))


def last_of(run: Path) -> Path:
    return run / "checkpoints" / "checkpoint_last.pt"


def command(*words: object) -> Result:
    return CliRunner().invoke(commands, list(map(str, words)))


def evaluated(path: Path, checkpoint: Path, data: Path) -> dict[str, Any]:
    """What `evaluate --json` prints, which is also written to a file."""
    result = command("evaluate", checkpoint, "--data", data, "--subset", "valid", "--json")
    assert result.exit_code == 0, result.output
    path.write_text(result.stdout)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def page(folder: Path, *words: object) -> Node:
    out = folder / "page.html"
    result = command("report", *words, "--out", out, "--examples", 0)
    assert result.exit_code == 0, result.output
    return read_page(out)


def headings(found: Node) -> list[str]:
    return [each.text for each in found.all("h3") if each.text.startswith("Measured on")]


def test_what_was_evaluated_is_told_apart_from_later_files(bench: Bench, tmp_path: Path) -> None:
    data = Path(shutil.copytree(bench.data, tmp_path / "data"))
    told = evaluated(tmp_path / "told.json", last_of(bench.letters), data)
    assert told["data_digest"] == split_digest(data, "valid", "ltr")
    assert told["checkpoint_digest"] == digest(last_of(bench.letters))
    labels = evaluated(tmp_path / "labels.json", bench.labels, bench.tones)
    assert labels["data_digest"] == split_digest(bench.tones, "valid", "lbl")
    words = (bench.letters, tmp_path / "told.json", "--subset", "valid", "--data", data)
    assert len(headings(page(tmp_path, *words))) == 1
    # Other texts under the same name.
    lines = (data / "valid.ltr").read_text().splitlines()
    (data / "valid.ltr").write_text("\n".join(["A B |", *lines[1:]]) + "\n")
    found = page(tmp_path, *words)
    assert len(headings(found)) == 2 and "Not everything was measured on the same" in found.text


def test_what_earlier_versions_printed_stands_apart(bench: Bench, tmp_path: Path) -> None:
    """They did not say what it was of, which may have changed since."""
    told = evaluated(tmp_path / "told.json", last_of(bench.letters), bench.data)
    del told["data_digest"], told["checkpoint_digest"]
    (tmp_path / "told.json").write_text(json.dumps(told))
    shutil.copy(tmp_path / "told.json", tmp_path / "again.json")
    files = (tmp_path / "told.json", tmp_path / "again.json")
    found = page(tmp_path, bench.letters, *files, "--subset", "valid")
    assert len(headings(found)) == 2
    assert len(headings(page(tmp_path, *files))) == 1
