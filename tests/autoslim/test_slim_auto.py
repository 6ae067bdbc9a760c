"""`speechprune slim auto`: every step once, resumable, one report; with real training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from forked_training import runs_in_forks
from nano import write_corpus, write_finetuned, write_hubert, write_wav2vec2

from speechprune.autoslim import pipeline as steps
from speechprune.checkpoint import read
from speechprune.checkpoint.slimming import slim_plan_in
from speechprune.decoding.inference import evaluate
from speechprune.manifests.manifest import read_split
from speechprune.models.loading import load_finetuned
from speechprune.tools.main import commands

LAYERS, HEADS, CHANNELS, UPDATES = 2, 4, 64, 8
TRAINING = (
    *("--train", "train", "--valid", "valid", "--average", "2", "--updates", str(UPDATES)),
    *("--config-name", "demo/nano", "model.prune_every=2", "model.mask_length=2"),
    "dataset.max_tokens=40000",
)
SHARES = ("--ffn", "0.5", "--heads", "0.25")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slim_auto")
    data = write_corpus(folder / "data", train=8, valid=6)
    pretrained = write_wav2vec2(folder / "pretrained.pt", layers=LAYERS)
    write_finetuned(folder / "plain.pt", pretrained, data)
    masks = {"_name": "wav2vec_ctc_st", "prune_rate": 0.4, "fix_attn": True, "trainable_proj": True}
    write_finetuned(folder / "masks.pt", pretrained, data, model=masks)
    hubert = write_hubert(folder / "hubert_pretrained.pt", layers=LAYERS)
    write_finetuned(folder / "hubert.pt", hubert, data)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Iterator[list[str]]:
    with runs_in_forks() as begun:
        yield begun


def auto(
    folder: Path, name: str, out: str, *more: object, amounts: tuple[str, ...] = SHARES
) -> Any:
    arguments = ["slim", "auto", folder / f"{name}.pt", "--data", folder / "data", *amounts]
    arguments += ["--out", folder / out, *TRAINING, *more]
    return CliRunner().invoke(commands, [str(a) for a in arguments], catch_exceptions=True)


@pytest.fixture(scope="module")
def report(folder: Path, trained: list[str]) -> dict[str, Any]:
    result = auto(folder, "plain", "plain", "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_report_tells_every_step(folder: Path, report: dict[str, Any]) -> None:
    stages = report["evaluations"]["valid"]
    assert list(stages) == ["whole model", "pruned and cut", "averaged and cut"]
    assert report["stage"] in stages and len(report["averaged"]) == 2
    costs = report["costs"]
    for cost in ("multiply_adds", "bytes"):
        assert costs["pruned and cut"][cost] < costs["whole model"][cost]
    text = (folder / "plain" / "report.md").read_text()
    assert "| 0 | 3 of 4 | 32 of 64 |" in text
    for figure in ("report.png", "layers.png"):
        assert figure in text
        assert (folder / "plain" / figure).read_bytes()[:4] == b"\x89PNG"


def test_the_result_is_as_slim_as_asked_and_was_trained(
    folder: Path, report: dict[str, Any]
) -> None:
    path = folder / "plain" / report["checkpoint"]
    plan = slim_plan_in(read(path))
    assert plan is not None
    kept = [(len(layer.heads), len(layer.channels)) for layer in plan.kept]
    assert kept == [(3, CHANNELS // 2)] * LAYERS
    told = [(layer["heads"], layer["channels"]) for layer in report["kept"]["layers"]]
    assert told == kept
    found = evaluate(load_finetuned(path), read_split(folder / "data", "valid"))
    stage = report["evaluations"]["valid"][report["stage"]]
    assert (found.characters.rate, found.parameters) == (stage["cer"], stage["parameters"])
    last = read(folder / "plain/model/pruning/checkpoints/checkpoint_last.pt")
    assert last["optimizer_history"][-1]["num_updates"] == UPDATES
    key = "w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"
    assert not torch.equal(last["model"][key], read(folder / "plain.pt")["model"][key])


def test_both_results_keep_the_same_units(folder: Path, report: dict[str, Any]) -> None:
    model = folder / "plain" / "model"
    plans = [slim_plan_in(read(model / name)) for name in ("slim.pt", "slim_average.pt")]
    assert plans[0] == plans[1]


def test_again_nothing_is_done(folder: Path, report: dict[str, Any], trained: list[str]) -> None:
    before = len(trained)
    result = auto(folder, "plain", "plain", "--json")
    assert json.loads(result.stdout) == report and len(trained) == before


def test_interrupted_anywhere_it_goes_on_to_the_same_end(
    folder: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name in ((steps, "finish_all"), (steps.Slimming, "cut"), (steps, "evaluate")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, _interrupt)
            result = auto(folder, "plain", "interrupted")
            assert result.exit_code == 130 and not (folder / "interrupted/report.json").exists()
    found = json.loads(auto(folder, "plain", "interrupted", "--json").stdout)
    assert _timeless(found) == _timeless(report)


def _interrupt(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def _timeless(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what differs from one run to the next."""
    left = {**report, "sha256": None}
    left["evaluations"] = {
        split: {
            stage: {**found, "seconds_of_audio_per_second": None} for stage, found in stages.items()
        }
        for split, stages in report["evaluations"].items()
    }
    # Files tell how they were made, at paths of other lengths.
    left["costs"] = {stage: {**cost, "bytes": None} for stage, cost in report["costs"].items()}
    return left


def test_gates_on_a_pretrained_model_are_cut_and_finetuned(
    folder: Path, trained: list[str]
) -> None:
    teacher = folder / "pretrained.pt"
    amounts = ("--keep-parameters", "0.9", "--criterion", "l0", "--then-updates", "4")
    distilling = ("criterion._name=distill_ctc", f"criterion.teacher={teacher}")
    result = auto(folder, "pretrained", "gates", *distilling, "--json", amounts=amounts)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    stages = ["pruned and cut", "finetuned", "averaged"]
    assert list(found["evaluations"]["valid"]) == stages
    model = folder / "gates" / "model"
    last = read(model / "finetuned/checkpoints/checkpoint_last.pt")
    assert last["optimizer_history"][-1]["num_updates"] == 4
    assert slim_plan_in(last) == slim_plan_in(read(model / "slim.pt")) is not None


def test_a_budget_is_met_from_below_by_hubert(folder: Path, trained: list[str]) -> None:
    result = auto(folder, "hubert", "hubert", "--json", amounts=("--keep-parameters", "0.8"))
    assert result.exit_code == 0, result.output
    kept = json.loads(result.stdout)["kept"]
    share = kept["parameters"] / kept["parameters_before"]
    assert 0.79 < share <= 0.8


@pytest.mark.parametrize(
    ("name", "more", "amounts", "complaint"),
    [
        ("masks", (), SHARES, "has masks"),
        ("plain", (), ("--ffn", "1.0"), "1.0 is not in the range"),
        ("plain", (), (), "in one way"),
        ("plain", (), ("--keep-parameters", "0.01"), "impossible"),
        ("plain", (), ("--ffn", "0.5", "--keep-macs", "0.5"), "in one way"),
        ("plain", ("--criterion", "snipp"), SHARES, "did you mean 'snip'"),
        ("plain", ("model.prune_every=100",), SHARES, "holds no event"),
        ("plain", ("model.ffn_sparsity=0.1",), SHARES, "use --ffn"),
        ("plain", ("optimization.max_epoch=1",), SHARES, "max_epoch may end a training before"),
        ("plain", ("--train", "nowhere"), SHARES, "nowhere"),
        ("missing", (), SHARES, "missing.pt"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    folder: Path,
    trained: list[str],
    name: str,
    more: tuple[str, ...],
    amounts: tuple[str, ...],
    complaint: str,
) -> None:
    before = len(trained)
    result = auto(folder, name, "refused", *more, amounts=amounts)
    assert result.exit_code != 0 and complaint in result.output, result.output
    assert len(result.output.strip().splitlines()) == 1 or "Usage" in result.output
    assert len(trained) == before and not list((folder / "refused").rglob("*.pt"))
