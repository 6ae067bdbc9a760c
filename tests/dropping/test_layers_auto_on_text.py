"""`speechprune layers auto` on models of text, with real training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from forked_training import runs_in_forks
from sentences import POSITIONS, write_finetuned_roberta, write_roberta, write_sentences

from speechprune.checkpoint import read
from speechprune.decoding.sentences import evaluate_sentences
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.tools.main import commands

LAYERS, UPDATES = 4, 22
OPTIONS = (
    *("--drop", "2", "--train", "train", "--valid", "valid", "--measure", "cka", "--top", "3"),
    *("--average", "2", "--updates", str(UPDATES), f"task.max_positions={POSITIONS}"),
    *("common.fp16=false", "common.cpu=true", "lr_scheduler.warmup_updates=1"),
    *("optimization.lr=[0.01]", "dataset.num_workers=0", "dataset.batch_size=13"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auto")
    data = write_sentences(folder / "data", {"train": 26, "valid": 24, "held-out": 24})
    pretrained = write_roberta(folder / "pretrained.pt", layers=LAYERS, strength=10.0)
    write_finetuned_roberta(folder / "dense.pt", pretrained, data, "model._name=roberta_pruned")
    write_finetuned_roberta(folder / "masked.pt", pretrained, data, "model.prune_rate=0.4")
    pretrained.unlink()  # nobody needs it any more
    return folder


def auto(folder: Path, name: str, *more: str, config: str = "glue/sst-2") -> Any:
    words = ["layers", "auto", folder / f"{name}.pt", "--data", folder / "data", *OPTIONS]
    words += ["--out", folder / f"auto {name}", "--config-name", config, *more]
    with runs_in_forks():
        return CliRunner().invoke(commands, [str(word) for word in words])


@pytest.mark.parametrize("name", ["dense", "masked"])
def test_a_model_of_text_gets_smaller_in_one_command(folder: Path, name: str) -> None:
    result = auto(folder, name, "--test", "held-out", "--json")
    assert result.exit_code == 0, result.output
    report, out = json.loads(result.stdout), folder / f"auto {name}"
    plans = report["verified"]["plans"]
    assert [plan["error"] for plan in plans] == sorted(plan["error"] for plan in plans)
    assert report["drop"] == plans[0]["drop"] and report["verified"]["by"] == "error"
    assert report["evaluations"]["valid"]["layers dropped"]["error"] == plans[0]["error"]
    last = read(out / "model/finetuned/checkpoints/checkpoint_last.pt")
    # Of two updates each, the ten epochs of GLUE's configs are over before.
    assert last["optimizer_history"][-1]["num_updates"] == UPDATES
    smaller = load_finetuned(out / report["checkpoint"])
    assert len(smaller.model.encoder.sentence_encoder.layers) == LAYERS - 2
    for split in ("valid", "held-out"):
        found = evaluate_sentences(smaller, folder / "data", split)
        assert found.error == report["evaluations"][split][report["stage"]]["error"]
    assert len(report["averaged"]) == 2
    if name == "masked":
        before, after = out / "model/dropped.pt", out / report["checkpoint"]
        assert read_mask_set(before) == read_mask_set(after)
        assert smaller.density == pytest.approx(0.4, abs=0.01)
    text = (out / "report.md").read_text()
    assert "1 - accuracy %" in text and "WER" not in text and "examples per s" in text


@pytest.mark.parametrize(
    ("more", "config", "message"),
    [
        ((), "demo/nano", "is a model of text, which the config demo/nano does not train"),
        (("--valid", "gone"), "glue/sst-2", "input0/gone.idx"),
        (("--by", "wer"), "glue/sst-2", "ranked by error, not by wer"),
        (("optimization.max_epoch=3",), "glue/sst-2", "optimization.max_epoch"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    folder: Path, tmp_path: Path, more: tuple[str, ...], config: str, message: str
) -> None:
    result = auto(folder, "dense", "--out", str(tmp_path / "out"), *more, config=config)
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert result.exit_code != 0 and len(lines) == 1 and message in lines[0], result.output
    assert not (tmp_path / "out").exists()
