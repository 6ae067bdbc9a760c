"""The best checkpoint is that for which `evaluate` prints the lowest error rate."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from loop import Lab

from speechprune.decoding.inference import evaluate, read_references
from speechprune.models.loading import load_finetuned
from speechprune.training.yardstick import choose_yardstick

KEY = "checkpoint.best_checkpoint_metric"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("yardstick"))


@pytest.fixture(scope="module")
def units(lab: Lab) -> Path:
    """The lab's data with labels that are units: letters without words."""
    folder = lab.folder / "units"
    shutil.copytree(lab.data, folder)
    for file in (*folder.glob("*.ltr"), folder / "dict.ltr.txt"):
        text = file.read_text().replace(" |", "").replace("| 1\n", "")
        file.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("kind", "overrides", "chosen", "told"),
    [
        ("letters", [], "wer", "wer, the share of words"),
        ("letters", [f"{KEY}=uer"], "uer", "uer, the share of characters"),
        ("units", [], "uer", "uer, the share of units, for "),
        ("units", [f"{KEY}=wer"], "wer", "wer, the share of units, for "),
        ("units", [f"{KEY}=loss"], "loss", ""),
        ("units", ["criterion.post_process=sentencepiece"], "wer", ""),
    ],
)
def test_labels_without_words_are_judged_by_their_units(
    lab: Lab,
    units: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    overrides: list[str],
    chosen: str,
    told: str,
) -> None:
    """What is typed is done; one line tells which rate counts."""
    cfg = lab.compose(f"task.data={units if kind == 'units' else lab.data}", *overrides)
    with caplog.at_level(logging.INFO):
        choose_yardstick(cfg, {override.partition("=")[0] for override in overrides})
    assert cfg.checkpoint.best_checkpoint_metric == chosen
    lines = [r.getMessage() for r in caplog.records if "checkpoint_best.pt" in r.getMessage()]
    assert [told in line for line in lines] == [True] * bool(told)


def test_a_run_logs_what_evaluation_prints(lab: Lab, units: Path) -> None:
    """In whatever batches, by fairseq's own command."""
    run = lab.train(
        "units",
        f"task.data={units}",
        "model._name=wav2vec_ctc",
        "dataset.batch_size=3",
    ).succeeded()
    loaded = load_finetuned(run.path("best"))
    found = evaluate(loaded, read_references(loaded, units, "valid"), batch_size=1)
    logged = run.records("valid")[-1]
    assert float(logged["valid_wer"]) == round(100 * found.words.rate, 3)
    assert logged["valid_uer"] == logged["valid_wer"] == logged["valid_raw_wer"]
    assert run.checkpoint("best")["extra_state"]["best"] == float(logged["valid_wer"])
    assert run.checkpoint()["optimizer_history"][-1]["criterion_name"] == "CtcCriterion"
    assert "wer and uer are both the unit error rate" in run.output
