"""Recipes on a task on sentences, compared by its error; and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from forked_training import runs_in_forks, write_setting
from sentences import POSITIONS, WORDS, write_roberta, write_sentences

from speechprune.checkpoint import read
from speechprune.decoding.sentences import evaluate_sentences
from speechprune.errors import UserError
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.recipes import Setting, cook
from speechprune.reports.comparison import compare
from speechprune.tools.main import commands

#: The model that each recipe ends with, and its updates in all.
RECIPES = {
    "dense": ("roberta_pruned", 6),
    "rp": ("roberta_masked", 6),
    "mpi": ("roberta_masked", 6),
    "omp": ("roberta_masked", 12),
    "imp": ("roberta_masked", 10),
    "parp": ("roberta_parp", 6),
    "parp-p": ("roberta_parp", 6),
    "s3router": ("roberta_st", 6),
    "s3router-norms": ("roberta_st", 6),
    "s3router-prune": ("roberta_st", 12),
    "transfer": ("roberta_parp", 12),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("recipes on text")
    return Setting(
        out=folder / "out",
        data=write_sentences(folder / "data", {"train": 32, "valid": 24}),
        model=write_roberta(folder / "it's.pt", layers=1),
        config="glue/sst-2",
        sparsity=0.5,
        # With 32 texts a batch, GLUE's own 10 epochs would end long after.
        updates=6,
        overrides=(
            *(f"task.max_positions={POSITIONS}", "common.fp16=false", "common.cpu=true"),
            *("lr_scheduler.warmup_updates=1", "optimization.lr=[0.01]", "model.prune_every=1"),
            "dataset.num_workers=0",
        ),
        round_updates=2,
        step=0.3,
        source=write_sentences(folder / "source", {"train": 32, "valid": 8}, seed=1),
    )


@pytest.fixture(scope="module")
def cooked(base: Setting) -> Iterator[dict[str, dict[str, Any]]]:
    """The last summaries of all recipes, cooked in one folder, where they share rounds."""
    with runs_in_forks():
        yield {name: json.loads(cook([(name, base)])[-1].read_text()) for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_end_with_one_summary(
    cooked: dict[str, dict[str, Any]], base: Setting, name: str
) -> None:
    summary, (model, updates) = cooked[name], RECIPES[name]
    assert (summary["recipe"], summary["final_updates"], summary["updates"]) == (name, 6, updates)
    state = read(summary["checkpoint"])
    assert state["cfg"]["model"]["_name"] == model
    assert state["optimizer_history"][-1]["num_updates"] == 6
    if name != "dense":
        assert read_mask_set(summary["checkpoint"]).density == pytest.approx(0.5, abs=1e-3)
    assert load_finetuned(summary["checkpoint"]).density == pytest.approx(
        1.0 if name == "dense" else 0.5, abs=1e-3
    )


def test_trainings_end_by_updates_alone(base: Setting, tmp_path: Path) -> None:
    """GLUE's configs end after ten epochs, here of one update each."""
    with runs_in_forks():
        setting = replace(base, updates=12, out=tmp_path)
        (path,) = cook([("parp", setting)])
    assert (
        read(tmp_path / "parp-0.5/checkpoints/checkpoint_last.pt")["optimizer_history"][-1][
            "num_updates"
        ]
        == json.loads(path.read_text())["final_updates"]
        == 12
    )


def test_runs_are_compared_by_the_error_of_the_task(
    cooked: dict[str, dict[str, Any]], base: Setting
) -> None:
    assert base.data is not None
    paths = {name: Path(cooked[name]["checkpoint"]) for name in ("dense", "mpi", "s3router")}
    comparison = compare([path.parent.parent for path in paths.values()], subset="valid")
    described = comparison.describe()
    expected = [
        evaluate_sentences(load_finetuned(path), base.data, "valid").error
        for path in paths.values()
    ]
    assert [row["error"] for row in described["rows"]] == expected
    assert [run["error"] for run in described["runs"]] == expected
    assert described["warnings"] == [] and "wer" not in described["rows"][0]
    assert "1 - accuracy %" in comparison.describe_in_words()
    assert "WER" not in comparison.describe_in_words()
    alone = compare([paths["mpi"].parent.parent], subset="valid", data=base.data)
    assert alone.warnings() == ["no dense control among the runs (model._name=roberta_pruned)"]


def test_a_folder_with_another_metric_has_another_heading(
    cooked: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    data = write_sentences(tmp_path / "data", {"valid": 24})
    task = {"name": "Q", "inputs": ["sentence"], "label": "label", "classes": ["0", "1"]}
    told = {"corpus": "text", "task": {**task, "metrics": ["f1"], "positive": "1", "scale": 1.0}}
    (data / "provenance.json").write_text(json.dumps(told))
    folder = Path(cooked["dense"]["checkpoint"]).parent.parent
    comparison = compare([folder], subset="valid", data=data)
    assert "1 - f1 %" in comparison.describe_in_words()
    (row,) = comparison.describe()["rows"]
    loaded = load_finetuned(folder / "checkpoints/checkpoint_last.pt")
    assert row["error"] == evaluate_sentences(loaded, data, "valid").error


def test_what_cannot_be_cooked_is_refused_in_one_line(base: Setting, tmp_path: Path) -> None:
    speech = write_setting(tmp_path / "speech")
    other = write_sentences(tmp_path / "other", {"train": 8, "valid": 8}, words=WORDS[:-1])
    for name, changes, message in (
        ("mpi", {"model": speech.model}, "trains models of text, but .* is one of speech"),
        ("mpi", {"config": "demo/nano"}, "trains models of speech, but .* is one of text"),
        ("joint", {"languages": speech.languages}, "the recipe joint is for models of speech"),
        ("dphubert", {}, "the recipe dphubert is for models of speech"),
        ("parp", {"overrides": ("model.roberta_path=x.pt",)}, "use --model"),
        ("mpi", {"data": speech.data}, "trains models of text, but .* holds no text"),
        ("transfer", {"source": speech.data}, "trains models of text, but .* holds no text"),
        ("dense", {"config": "demo/nano", "model": speech.model}, "but .* holds no speech"),
        ("dense", {"data": other}, "dense: training failed; see"),
    ):
        setting = replace(base, out=tmp_path / "out" / name / str(len(message)), **changes)
        with pytest.raises(UserError, match=message) as raised:
            cook([(name, setting)])
        assert "\n" not in str(raised.value)
    # Outside of tests, the reason is in the message.
    log = (setting.out / "dense" / "train.log").read_text()
    assert "prepare the data with the dictionary of pretraining" in log


def test_runs_of_text_and_of_speech_are_compared_apart(
    cooked: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    speech = write_setting(tmp_path)
    with runs_in_forks():
        cook([("dense", speech)])
    text = Path(cooked["dense"]["checkpoint"]).parent.parent
    result = CliRunner().invoke(
        commands, ["compare", str(text), str(speech.out / "dense"), "--subset", "valid"]
    )
    assert result.exit_code != 0
    (line,) = result.stderr.splitlines()
    assert "is a run on text, but" in line and "on speech; compare them apart" in line
