"""`speechprune slim prune`: what it prints and writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.backbones import find_backbone
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.tools.main import commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained and a finetuned model, and a corpus with subsets that are of no use."""
    folder = tmp_path_factory.mktemp("prune")
    data = write_corpus(folder / "data", train=8, valid=4)
    write_corpus(folder / "telephone", train=1, valid=1, sample_rate=8000)
    write_finetuned(folder / "finetuned.pt", write_wav2vec2(folder / "pretrained.pt"), data)
    rows = (data / "valid.tsv").read_text().splitlines()
    (data / "unlabelled.tsv").write_text((data / "valid.tsv").read_text())
    (data / "empty.tsv").write_text(rows[0] + "\n")
    (data / "gone.tsv").write_text(f"{rows[0]}\nnowhere.wav\t16000\n")
    strange = write_corpus(folder / "strange", train=1, valid=1)
    (strange / "dict.ltr.txt").write_text("Q 1\n| 1\n")
    (strange / "train.ltr").write_text("Q |\n")
    return folder


def run(folder: Path, line: str, out: Path) -> Any:
    words = [word.format(folder=folder, data=folder / "data", out=out) for word in line.split()]
    return CliRunner().invoke(commands, ["slim", "prune", *words], catch_exceptions=True)


def test_it_prints_what_stays_and_the_errors(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    line = "{folder}/finetuned.pt {out} --ffn 0.5 --heads 0.3 --data {data} --subset train --repair"
    result = run(folder, line, out)
    assert result.exit_code == 0, result.output
    assert "3 of 4  32 of 64" in result.stdout
    assert "units scored by snip_momentum on 8 utterances" in result.stdout
    assert "relative error of each block before and after repair on 8 utterances:" in result.stdout
    encoder = load_encoder(out)
    units = find_backbone(encoder).units(encoder)
    assert [(layer.heads, layer.channels) for layer in units] == [(3, 32)] * 2


def test_json_is_the_same_for_programs(folder: Path, tmp_path: Path) -> None:
    line = "{folder}/finetuned.pt {out} --ffn 0.5 --data {data} --subset train --repair --json"
    result = run(folder, line, tmp_path / "out.pt")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [layer["channels"] for layer in found["layers"]] == [32, 32]
    assert found["multiply_adds"] < found["multiply_adds_before"]
    assert found["parameters"] < found["parameters_before"]
    for layer in found["errors"]:
        assert layer["attention"] == {"before": 0.0, "after": 0.0}
        assert 0 < layer["feed_forward"]["after"] < layer["feed_forward"]["before"]


@pytest.mark.parametrize(
    ("line", "criterion"),
    [
        ("{folder}/pretrained.pt {out} --ffn 0.5", "magnitude"),
        ("{folder}/finetuned.pt {out} --ffn 0.5", "magnitude"),
        (
            "{folder}/pretrained.pt {out} --ffn 0.5 --data {data} --subset unlabelled --repair",
            "magnitude",
        ),
        (
            "{folder}/finetuned.pt {out} --ffn 0.5 --data {data} --subset train "
            "--criterion gradient --batches 2 --batch-size 3",
            "gradient on 6 utterances",
        ),
    ],
)
def test_what_units_are_scored_by(folder: Path, tmp_path: Path, line: str, criterion: str) -> None:
    result = run(folder, line, tmp_path / "out.pt")
    assert result.exit_code == 0, result.output
    assert f"units scored by {criterion}\n" in result.stdout


@pytest.mark.parametrize("budget", ["--keep-parameters 0.8", "--keep-macs 0.8"])
@pytest.mark.parametrize("scope", ["", "--scope global"])
def test_budgets(folder: Path, tmp_path: Path, budget: str, scope: str) -> None:
    line = f"{{folder}}/pretrained.pt {{out}} {budget} {scope} --json"
    found = json.loads(run(folder, line, tmp_path / "out.pt").stdout)
    measure = "parameters" if "parameters" in budget else "multiply_adds"
    assert 0.7 < found[measure] / found[f"{measure}_before"] <= 0.8


def test_widths_can_be_round(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    result = run(folder, "{folder}/finetuned.pt {out} --ffn 0.3 --multiple-of 16", out)
    assert result.exit_code == 0, result.output
    assert "48 of 64" in result.stdout
    assert load_finetuned(out).model is not None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("finetuned.pt --ffn 1", "1.0 is not in the range 0.0<=x<1.0"),
        ("finetuned.pt --ffn -0.1", "-0.1 is not in the range"),
        ("finetuned.pt --ffn 0.5 --heads 1.5", "1.5 is not in the range"),
        ("finetuned.pt --ffn nan", "nan is not a finite number"),
        ("finetuned.pt --ffn 0 --heads 0", "both 0"),
        ("finetuned.pt --heads 0.01", "nothing would be removed"),
        ("finetuned.pt", "in one way"),
        ("finetuned.pt --ffn 0.5 --keep-macs 0.5", "in one way"),
        ("finetuned.pt --keep-parameters 0.5 --keep-macs 0.5", "in one way"),
        ("finetuned.pt --keep-parameters 0", "0.0 is not in the range 0.0<x<=1.0"),
        ("finetuned.pt --keep-parameters 1", "nothing would be removed"),
        ("finetuned.pt --keep-parameters 0.1", "impossible"),
        ("finetuned.pt --keep-parameters 0.37", "impossible"),
        ("finetuned.pt --keep-macs 0.8 --scope local", "--scope local"),
        ("finetuned.pt --ffn 0.5 --repair", "--repair needs audio"),
        ("finetuned.pt --ffn 0.5 --criterion snip", "snip needs labelled audio"),
        ("finetuned.pt --ffn 0.5 --criterion snop", "snip"),
        ("finetuned.pt --ffn 0.5 --data {data}", "go together"),
        ("finetuned.pt --ffn 0.5 --subset train", "go together"),
        ("pretrained.pt --ffn 0.5 --data {data} --subset train", "nothing would read the audio"),
        (
            "pretrained.pt --ffn 0.5 --data {data} --subset train --criterion snip",
            "snip needs the gradient of a loss",
        ),
        ("finetuned.pt --ffn 0.5 --data {folder}/nowhere --subset train", "nowhere"),
        ("finetuned.pt --ffn 0.5 --data {data} --subset test", "test"),
        ("finetuned.pt --ffn 0.5 --data {data} --subset unlabelled", "snip_momentum needs labels"),
        ("pretrained.pt --ffn 0.5 --data {data} --subset empty --repair", "lists no recording"),
        ("pretrained.pt --ffn 0.5 --data {data} --subset gone --repair", "nowhere.wav"),
        (
            "pretrained.pt --ffn 0.5 --data {folder}/telephone --subset train --repair",
            "8000",
        ),
        ("finetuned.pt --ffn 0.5 --data {folder}/strange --subset train", "'Q'"),
        ("nothing.pt --ffn 0.5", "nothing.pt"),
    ],
)
def test_refusals(folder: Path, tmp_path: Path, line: str, message: str) -> None:
    name, _, options = line.partition(" ")
    result = run(folder, f"{{folder}}/{name} {{out}} {options}", tmp_path / "out.pt")
    assert result.exit_code not in (0, None), result.output
    assert isinstance(result.exception, SystemExit), result.exc_info
    lines = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(lines) == 1 and message in lines[0], result.stderr
    assert not list(tmp_path.iterdir())


def test_it_does_not_replace_its_source(folder: Path, tmp_path: Path) -> None:
    result = run(folder, "{folder}/finetuned.pt {folder}/finetuned.pt --ffn 0.5", tmp_path)
    assert result.exit_code == 1 and "would be overwritten" in result.stderr
    missing = tmp_path / "missing" / "out.pt"
    result = run(folder, "{folder}/finetuned.pt {out} --ffn 0.5", missing)
    assert result.exit_code == 1 and "no folder" in result.stderr
