"""Error rates stand under the names of what was measured, beside others on the same data alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import rewrite
from click.testing import CliRunner, Result
from labelled import write_tones
from nano import write_corpus, write_finetuned, write_wav2vec2
from page_reading import Node, read_page

from speechprune.decoding.inference import Evaluation, evaluate, read_references
from speechprune.dropping.search import VerificationSettings, verify_plans
from speechprune.files import digest
from speechprune.layers.plan import LayerPlan, LayerPlans
from speechprune.manifests.split_files import split_digest
from speechprune.models.loading import load_recogniser
from speechprune.reports.stages import plain_values, stages_table
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


def test_a_model_of_units_has_one_rate_however_it_comes(bench: Bench, tmp_path: Path) -> None:
    alone = Path(shutil.copy(last_of(bench.units), tmp_path / "alone.pt"))
    told = evaluated(tmp_path / "told.json", alone, bench.data)
    on = ("--data", bench.data, "--subset", "valid")
    found = page(tmp_path, bench.units, alone, tmp_path / "told.json", *on)
    assert len(headings(found)) == 1
    head, *rows = found.table(HEAD)
    assert head[:3] == ["model", "UER %", "parameters kept"]
    assert [row[1] for row in rows] == 3 * [f"{100 * told['wer']:.2f}"]
    assert "WER" not in found.text and "CER" not in found.text


def test_a_model_for_labels_has_an_accuracy_however_it_comes(bench: Bench, tmp_path: Path) -> None:
    told = evaluated(tmp_path / "told.json", bench.labels, bench.tones)
    on = ("--data", bench.tones, "--subset", "valid")
    found = page(tmp_path, bench.labels, tmp_path / "told.json", *on)
    assert len(headings(found)) == 1
    head, *rows = found.table(HEAD)
    assert head[:3] == ["model", "1 - accuracy %", "parameters kept"]
    assert [row[1] for row in rows] == 2 * [f"{100 * (1 - told['accuracy']):.2f}"]


def test_rates_of_letters_and_of_units_stand_apart(bench: Bench, tmp_path: Path) -> None:
    found = page(tmp_path, bench.letters, bench.units, "--subset", "valid")
    heads = [
        [cell.text for cell in each.all("th")][1:3]
        for each in found.all("table")
        if HEAD in each.text
    ]
    assert heads == [["WER %", "CER %"], ["UER %", "parameters kept"]]


def test_runs_are_compared_by_the_rate_of_units(bench: Bench, tmp_path: Path) -> None:
    table = command("compare", bench.units, "--subset", "valid")
    assert table.exit_code == 0, table.output
    assert "UER %" in table.stdout and "WER" not in table.stdout and "CER" not in table.stdout
    printed = command("compare", bench.units, "--subset", "valid", "--json").stdout
    told = evaluated(tmp_path / "told.json", last_of(bench.units), bench.data)
    for row in json.loads(printed)["rows"]:
        assert row["wer"] == row["cer"] == pytest.approx(told["wer"])
    mixed = command("compare", bench.letters, bench.units, "--subset", "valid")
    assert mixed.exit_code == 1 and mixed.stderr.count("\n") == 1
    assert "letters is measured by WER and CER, but" in mixed.stderr
    assert "units by UER; compare them apart" in mixed.stderr


def test_stages_and_plans_of_a_model_of_units(bench: Bench) -> None:
    loaded = load_recogniser(last_of(bench.units))
    found: Evaluation = evaluate(loaded, read_references(loaded, bench.data, "valid"))
    assert stages_table({"whole": found})[0][:3] == ["", "UER %", "parameters"]
    assert plain_values(found)["rate_names"] == {"wer": "UER"}
    plans = LayerPlans((LayerPlan(2, (0,)), LayerPlan(2, (1,))), 2)
    for by in ("wer", "cer"):
        settings = VerificationSettings(bench.data, "valid", by=by)
        report = verify_plans(last_of(bench.units), lambda _: plans, settings)
        assert report.in_words().split()[:3] == ["drop", "UER", "%"]
        assert "WER" not in report.in_words() and "CER" not in report.in_words()


def test_a_page_takes_the_names_that_a_report_says(tmp_path: Path) -> None:
    """Of earlier versions' reports, which say none, those of words and characters."""
    values = {"wer": 0.25, "cer": 0.25, "parameters": 10, "density": 1.0, "device": "cpu"}
    said = {**values, "rate_names": {"wer": "UER"}}
    plan = {"drop": [0], "wer": 0.5, "cer": 0.5, "found_by": ["dc"]}
    for stage, names in ((said, ["UER %"]), (values, ["WER %", "CER %"])):
        folder = tmp_path / names[0].split()[0]
        folder.mkdir()
        report = {"layers": 2, "verified": {"plans": [plan]}, "evaluations": {"v": {"a": stage}}}
        (folder / "report.json").write_text(json.dumps(report))
        found = page(tmp_path, folder)
        assert found.table(HEAD)[0][1:-1] == names
        assert [*names, "found by"] == found.table("Layers that stay")[0][-len(names) - 1 :]
    report = {"layers": 2, "verified": {"plans": [plan]}, "evaluations": {}}
    (folder / "report.json").write_text(json.dumps(report))
    assert "WER %" in page(tmp_path, folder).table("Layers that stay")[0]
    wrong = {**values, "rate_names": {"wer": 3}}
    report = {"layers": 2, "verified": {"plans": [plan]}, "evaluations": {"v": {"a": wrong}}}
    (folder / "report.json").write_text(json.dumps(report))
    result = command("report", folder, "--out", tmp_path / "page.html")
    assert result.exit_code == 1 and "report.json is damaged" in result.stderr


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


def test_a_checkpoint_by_itself_is_heard_at_its_own_rate(bench: Bench, tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "telephone", train=1, valid=2, sample_rate=8000)
    path = write_finetuned(tmp_path / "slow.pt", bench.pretrained, data)
    state = torch.load(path, weights_only=True)
    state["cfg"]["task"]["sample_rate"] = 8000
    torch.save(state, path)
    found = page(tmp_path, path, "--data", data, "--subset", "valid")
    told = evaluated(tmp_path / "told.json", path, data)
    assert found.table(HEAD)[1][1] == f"{100 * told['wer']:.2f}"
