"""`speechprune layers auto`: every step once, resumable, one report; with real training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from forked_training import runs_in_forks
from nano import write_corpus, write_finetuned, write_hubert, write_wav2vec2

from speechprune.checkpoint import read
from speechprune.decoding.inference import Evaluation, evaluate
from speechprune.decoding.scoring import ErrorCounts
from speechprune.dropping import pipeline as steps
from speechprune.dropping.report import Report
from speechprune.errors import UserError
from speechprune.manifests.manifest import read_split
from speechprune.models.loading import load_finetuned
from speechprune.tools.main import commands
from speechprune.training.run import TrainingRun

LAYERS, UPDATES = 5, 8
OPTIONS = (
    *("--drop", "2", "--train", "train", "--valid", "valid", "--measure", "svcca"),
    *("--measure", "cka", "--top", "4", "--average", "2", "--updates", str(UPDATES)),
    *("--config-name", "demo/nano", "model.mask_length=2", "dataset.max_tokens=40000"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auto")
    data = write_corpus(folder / "data", train=8, valid=6)
    pretrained = write_wav2vec2(folder / "pretrained.pt", layers=LAYERS)
    write_finetuned(folder / "plain.pt", pretrained, data)
    masks = {"_name": "wav2vec_ctc_st", "prune_rate": 0.4, "fix_attn": True, "trainable_proj": True}
    write_finetuned(folder / "masks.pt", pretrained, data, model=masks)
    hubert = write_hubert(folder / "hubert_pretrained.pt", layers=LAYERS)
    write_finetuned(folder / "hubert.pt", hubert, data, model=masks)
    hubert.unlink()
    pretrained.unlink()  # nobody needs it any more
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Iterator[list[str]]:
    with runs_in_forks() as begun:
        yield begun


def auto(folder: Path, name: str, out: str, *more: object) -> Any:
    arguments = ["layers", "auto", folder / f"{name}.pt", "--data", folder / "data"]
    arguments += ["--out", folder / out, *OPTIONS, *more]
    return CliRunner().invoke(commands, [str(a) for a in arguments], catch_exceptions=True)


@pytest.fixture(scope="module")
def report(folder: Path, trained: list[str]) -> dict[str, Any]:
    result = auto(folder, "plain", "plain", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_report_tells_every_step(folder: Path, report: dict[str, Any]) -> None:
    plans = report["verified"]["plans"]
    assert report["drop"] == plans[0]["drop"] and report["layers"] == LAYERS
    assert [plan["cer"] for plan in plans] == sorted(plan["cer"] for plan in plans)
    assert len({tuple(plan["drop"]) for plan in plans}) == len(plans) >= 4
    assert set(report["similarity"]) == {"svcca", "cka"}
    stages = report["evaluations"]["valid"]
    assert list(stages) == ["whole model", "layers dropped", "finetuned", "averaged"]
    assert stages["layers dropped"]["cer"] == plans[0]["cer"]
    assert stages["averaged"]["parameters"] < stages["whole model"]["parameters"]
    text = (folder / "plain" / "report.md").read_text()
    for figure in ("report.png", "svcca.png", "cka.png"):
        assert figure in text
        assert (folder / "plain" / figure).read_bytes()[:4] == b"\x89PNG"


def test_the_result_is_a_smaller_model_that_was_trained(
    folder: Path, report: dict[str, Any]
) -> None:
    loaded = load_finetuned(folder / "plain" / report["checkpoint"])
    assert len(loaded.model.w2v_encoder.w2v_model.encoder.layers) == LAYERS - 2
    found = evaluate(loaded, read_split(folder / "data", "valid"))
    assert found.characters.rate == report["evaluations"]["valid"]["averaged"]["cer"]
    model = folder / "plain" / "model"
    last = read(model / "finetuned" / "checkpoints" / "checkpoint_last.pt")
    assert last["optimizer_history"][-1]["num_updates"] == UPDATES
    key = "w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"
    assert not torch.equal(last["model"][key], read(model / "dropped.pt")["model"][key])
    assert loaded.provenance["averaged"] == report["averaged"] and report["asked"] == 2
    assert len(report["averaged"]) == 2
    kept = [path.name for path in (model / "finetuned" / "checkpoints").glob("*.pt")]
    assert len(kept) <= 6, "disks are not to be filled"


def test_again_nothing_is_done(folder: Path, report: dict[str, Any], trained: list[str]) -> None:
    before = len(trained)
    result = auto(folder, "plain", "plain", "--json")
    assert json.loads(result.stdout) == report and len(trained) == before


def test_interrupted_anywhere_it_goes_on_to_the_same_end(
    folder: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("similarity", "verify_plans", "finish_all", "evaluate")
    for name in names:
        with monkeypatch.context() as patch:
            patch.setattr(steps, name, _interrupt)
            result = auto(folder, "plain", "interrupted")
            assert result.exit_code == 130 and not (folder / "interrupted/report.json").exists()
    found = json.loads(auto(folder, "plain", "interrupted", "--json").stdout)
    speed = "seconds_of_audio_per_second"
    for each in (report, found):
        each["verified"].pop("seconds")
        each.pop("sha256")
        for stage in each["evaluations"]["valid"].values():
            stage.pop(speed, None)
    assert found == report


def _interrupt(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def test_masks_stay_on_the_smaller_model(folder: Path, trained: list[str]) -> None:
    result = auto(folder, "masks", "masks", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    last = load_finetuned(folder / "masks/model/finetuned/checkpoints/checkpoint_last.pt")
    dropped = load_finetuned(folder / "masks/model/dropped.pt")
    masks = last.model.mask_controller.mask_set()
    assert masks == dropped.model.mask_controller.mask_set()
    assert last.density == pytest.approx(0.4, abs=0.01)
    assert found["evaluations"]["valid"]["averaged"]["density"] == last.density


def test_the_smaller_model_is_pruned_too(folder: Path, trained: list[str]) -> None:
    """Masks of PARP move while it trains, and the average is as sparse as what it is made of."""
    settings = ("model._name=wav2vec_ctc_parp", "model.sparsity=0.4", "model.prune_every=1")
    result = auto(folder, "plain", "parp", "--average", "3", *settings, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    averaged = load_finetuned(folder / "parp" / found["checkpoint"])
    assert averaged.cfg.model._name == "wav2vec_ctc_parp" and len(found["averaged"]) == 3
    assert averaged.density == pytest.approx(0.6, abs=0.001)
    stages = found["evaluations"]["valid"]
    assert stages["averaged"]["density"] == averaged.density
    assert stages["layers dropped"]["density"] == 1.0
    assert "| kept % |" in (folder / "parp/report.md").read_text()


def test_hubert_loses_layers_too(folder: Path, trained: list[str]) -> None:
    """Under the masks that it has."""
    result = auto(folder, "hubert", "hubert", "--json")
    assert result.exit_code == 0, result.output
    averaged = load_finetuned(folder / "hubert" / json.loads(result.stdout)["checkpoint"])
    assert averaged.cfg.model.w2v_args.model["_name"] == "hubert"
    assert averaged.cfg.model.w2v_args.model.encoder_layers == LAYERS - 2
    assert averaged.density == pytest.approx(0.4, abs=0.02)


def test_a_folder_of_other_settings_is_refused(folder: Path, report: dict[str, Any]) -> None:
    result = auto(folder, "plain", "plain", "--top", "3")
    assert (
        result.exit_code == 1
        and "was made with other settings (top=4, not 3); name another folder" in result.stderr
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--drop", "0"), "cannot drop 0 of 5 layers"),
        (("--drop", "5"), "cannot drop 5 of 5 layers"),
        (("--valid", "gone"), "gone.tsv is missing"),
        (("--measure", "ccs"), "unknown similarity measure 'ccs'"),
        (("--config-name", "demo/nana"), "demo/nana"),
        (("--average", "0"), "0 is not in the range"),
        (("--measure", "dc"), "8 utterances are too few for dc"),
        (("--out", "/dev/null/x"), "/dev/null is a file"),
        (("model.drop_layers=[0]",), "model.drop_layers is set by layers auto itself"),
        (("dataset.valid_subset=train",), "use --valid"),
        (("optimization.max_update=4",), "use --updates"),
        (("optimization.stop_time_hours=1",), "stop_time_hours may end a training before"),
        (("model.sparsity=0.4",), "model.sparsity: wav2vec_ctc_pruned does not read that"),
        (("model.foo=3",), "unknown key 'model.foo'"),
        (("dataset.max_tokens=1000",), "more than dataset.max_tokens=1000"),
        (("model._name=wav2vec_ctc_parp", "model.sparsity=1.5"), "model.sparsity"),
        (("model._name=wav2vec_ctc_masked",), "needs model.mask_file=FILE"),
        (("common.seed=-1",), "common.seed=-1 is out of range"),
        (
            ("model._name=wav2vec_ctc_st", "model.layerwise_prune_rate=[0.5,0.5]"),
            "model.layerwise_prune_rate needs 3 values",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    folder: Path, more: tuple[str, ...], message: str
) -> None:
    result = auto(folder, "plain", "refused", *more)
    assert result.exit_code not in (0, None) and message in result.stderr
    assert not (folder / "refused").exists()


def test_validating_on_test_data_is_refused(folder: Path) -> None:
    for suffix in ("tsv", "ltr"):
        text = (folder / "data" / f"valid.{suffix}").read_text()
        (folder / "data" / f"test.{suffix}").write_text(text)
    result = auto(folder, "plain", "refused", "--valid", "test")
    assert "named as test data" in result.stderr and not (folder / "refused").exists()


def test_failed_training_is_told_with_its_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: TrainingRun, environment: Any, lock: int) -> None:
        raise UserError(f"{run.name}: training failed; see {run.folder}")

    monkeypatch.setattr(TrainingRun, "_train", fail)
    result = auto(folder, "plain", "failed")
    assert result.exit_code == 1 and "finetuning 3 layers: training failed" in result.stderr


def test_how_to_train_may_be_corrected_until_it_was_trained(
    folder: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found before is not made again."""
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_train", lambda *_: (_ for _ in ()).throw(UserError("failed")))
        assert auto(folder, "plain", "corrected", "model.dropout=0.5").exit_code == 1
    monkeypatch.setattr(steps, "similarity", _interrupt)
    result = auto(folder, "plain", "corrected", "model.dropout=0.1")
    assert result.exit_code == 0, result.output
    result = auto(folder, "plain", "corrected", "model.dropout=0.2")
    assert "was made with other settings (training=" in result.stderr
    assert "(version" not in result.stderr and "checkpoint=" not in result.stderr


def test_a_folder_that_lost_its_result_or_is_damaged_is_refused(
    folder: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(folder / "plain", folder / "lost")
    (folder / "lost" / report["checkpoint"]).unlink()
    result = auto(folder, "plain", "lost")
    assert result.exit_code == 1 and "checkpoint_average.pt is missing" in result.stderr
    (folder / "lost" / "report.json").unlink()
    (folder / "lost" / "verified.json").write_text('{"cut')
    result = auto(folder, "plain", "lost")
    assert result.exit_code == 1 and "verified.json is damaged; remove it" in result.stderr


def test_the_better_of_the_average_and_the_last_is_the_result(report: dict[str, Any]) -> None:
    stages = report["evaluations"]["valid"]
    cer = {stage: stages[stage]["cer"] for stage in ("averaged", "finetuned")}
    assert cer[report["stage"]] == min(cer.values())
    better = Report(3, {}, {"by": "cer"}, {"valid": {}}, {}, [], 2, "")
    counts = {
        name: ErrorCounts(reference_length=10, deletions=n) for name, n in (("a", 3), ("b", 2))
    }
    measured = {n: Evaluation(c, c, False, 1, 1.0, 1.0, 1.0, "cpu") for n, c in counts.items()}
    paths = {"a": Path("a.pt"), "b": Path("b.pt")}
    better = replace(better, evaluations={"valid": measured}, results=paths)
    assert better.best == "b"
