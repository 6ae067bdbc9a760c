"""Real runs, averaged: their values in validation, their masks, and what comes of the average."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from averages import ENCODER, WEIGHT, run_command
from checkpoints import rewrite
from click.testing import CliRunner
from loop import Lab, Run
from parp_by_hand import KEPT, Plan, checkpoint_at, regrown_weights, saved_masks
from torch import Tensor
from toy import kept_of, top

from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.rewriting.averaging import average
from speechprune.rewriting.baseline_masks import Ranking
from speechprune.tools.main import commands

#: Saved at each update. Five updates are an epoch, and what ends an epoch is not validated.
FLAGS = (*KEPT, "optimization.update_freq=[2]")
UPDATES = 7
UPDATES_IN_EPOCH = 5


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("average-in-the-loop"))


@pytest.fixture(scope="module")
def dense(lab: Lab) -> Run:
    flags = (*FLAGS, "model._name=wav2vec_ctc", "checkpoint.keep_best_checkpoints=3")
    return lab.train("dense", *flags, updates=UPDATES).succeeded()


def test_values_are_those_of_the_validation_of_that_update(dense: Run, tmp_path: Path) -> None:
    """fairseq saves no value with what it did not validate, whatever it had validated before."""
    logged = {int(r["valid_num_updates"]): float(r["valid_wer"]) for r in dense.records("valid")}
    validated = [n for n in range(1, UPDATES + 1) if n != UPDATES_IN_EPOCH]
    assert sorted(logged) == validated
    found = average(dense.folder, tmp_path / "mean.pt")
    assert {c.updates: c.valid for c in found.averaged} == logged
    assert len(found.averaged) == len(validated) and found.unvalidated == 1
    order = sorted(logged, key=lambda n: (logged[n], -n))
    assert [c.updates for c in found.averaged] == order
    latest = average(dense.folder, tmp_path / "mean.pt", by="last", num=3)
    assert [(c.updates, c.valid) for c in latest.averaged] == [
        (7, logged[7]),
        (6, logged[6]),
        (UPDATES_IN_EPOCH, None),
    ]


def test_the_average_of_a_run_is_evaluated_and_finetuned(
    lab: Lab, dense: Run, tmp_path: Path
) -> None:
    out = tmp_path / "mean.pt"
    assert run_command(dense.folder, out, "--by", "last", "--num", 3).exit_code == 0
    models = [checkpoint_at(dense, update)["model"] for update in (5, 6, 7)]
    mean = torch.load(out, weights_only=True)["model"]
    for name, tensor in mean.items():
        expected = np.mean([model[name].double().numpy() for model in models], axis=0)
        assert np.array_equal(tensor.numpy(), expected.astype(np.float32)), name
    assert not torch.equal(mean[WEIGHT], models[-1][WEIGHT])
    assert load_finetuned(out).cfg.model._name == "wav2vec_ctc"
    line = ["evaluate", str(out), "--data", str(lab.data), "--subset", "valid", "--json"]
    evaluated = CliRunner().invoke(commands, line)
    assert evaluated.exit_code == 0 and json.loads(evaluated.stdout)["utterances"] == 4
    # From there on, with masks and without a step: weights are the average's.
    start = (f"checkpoint.finetune_from_model={out}", "optimization.lr=[0.0]")
    model = lab.train("further", *start).succeeded().model()
    assert torch.equal(model[WEIGHT], mean[WEIGHT]) and f"{WEIGHT}_mask" in model


def test_a_run_with_fixed_masks_stays_the_sparse_network(lab: Lab, tmp_path: Path) -> None:
    mask = tmp_path / "mask.safetensors"
    Ranking(lab.wav2vec2, "global-magnitude").masks(0.4).save(mask)
    name = ("model._name=wav2vec_ctc_masked", "model.fix_attn=false", f"model.mask_file={mask}")
    run = lab.train("masked", *FLAGS, *name, updates=3).succeeded()
    out = tmp_path / "mean.pt"
    assert len(average(run.folder, out, by="last").averaged) == 3
    mean, masks = torch.load(out, weights_only=True)["model"], read_mask_set(mask)
    last = run.model()
    loaded = load_finetuned(out)
    loaded.model.fold()
    folded = loaded.model.state_dict()
    for site, kept in masks.items():
        key = f"{ENCODER}{site}"
        assert not folded[key][~kept].any()
        assert torch.equal(folded[key][kept], mean[key][kept])
    assert not torch.equal(mean[WEIGHT], last[WEIGHT])


def mean_of(tensors: list[Tensor]) -> Tensor:
    """By numpy, in float64."""
    return torch.from_numpy(np.mean([t.double().numpy() for t in tensors], axis=0)).float()


def assert_averaged(folder: Path, models: list[dict[str, Any]]) -> dict[str, Any]:
    """The run's masks moved; its average loads, keeps as much as the last, and is told as such."""
    moved = [k for k in models[0] if k.endswith("_mask") and any(map(differs(k, models), models))]
    assert moved
    result = run_command(folder, "--by", "last")
    assert result.exit_code == 0, result.output
    assert "note: their masks differ, and were chosen anew from the mean" in result.stdout
    out = folder / "checkpoints" / "checkpoint_average.pt"
    last = load_finetuned(folder / "checkpoints" / "checkpoint_last.pt")
    assert load_finetuned(out).density == last.density
    state = torch.load(out, weights_only=True)
    assert state["speechprune"]["masks_chosen_anew"] is True
    assert state["model"].keys() == {k for k in models[-1] if not k.endswith("_regrown")}
    return state["model"]


def differs(key: str, models: list[dict[str, Any]]) -> Any:
    return lambda model: not torch.equal(model[key], models[0][key])


PLANS = {
    "parp": Plan(),
    "half": Plan(),
    "each-tensor": Plan(scope="tensor"),
    "progressive": Plan(start=0.2, sparsity=0.6, end=2),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_pruning_run_is_pruned_again_after_averaging(lab: Lab, name: str) -> None:
    """The mean is of the weights as they had grown, at the sparsity that the last one has."""
    plan = PLANS[name]
    half = ("common.bf16=true", "common.memory_efficient_bf16=true") * (name == "half")
    # The first one of these is from before the last sparsity.
    updates = (2, 3, 4, 5) if name == "progressive" else (1, 2, 3)
    # So large a rate moves masks in the last updates too.
    rate = ("optimization.lr=[0.2]",) * (name == "progressive")
    run = lab.train(name, *FLAGS, *plan.flags, *half, *rate, updates=updates[-1]).succeeded()
    models = [checkpoint_at(run, update)["model"] for update in updates]
    averaged = assert_averaged(run.folder, models)
    found = average(run.folder, run.folder / "again.pt", by="last")
    assert (
        found.of_other_density == updates[0] - 1
        and [c.updates for c in found.averaged] == [*updates][::-1]
    )
    grown = [regrown_weights(model) for model in models]
    means = {name: mean_of([weights[name] for weights in grown]) for name in grown[0]}
    expected = plan.choose(means, 3)
    masks = saved_masks(averaged)
    for name, mean in means.items():
        assert torch.equal(masks[name], expected[name]), name
        assert torch.equal(averaged[name], torch.where(expected[name], mean, 0.0)), name


@pytest.mark.parametrize("masks_saved", [True, False])
def test_the_mean_of_scores_chooses_the_connections(
    lab: Lab, tmp_path: Path, masks_saved: bool
) -> None:
    """Also of scores alone, as S3-Router saves them."""
    run = lab.train(f"router-{masks_saved}", *FLAGS, "model.prune_rate=0.5", updates=3)
    models = [checkpoint_at(run.succeeded(), update)["model"] for update in (1, 2, 3)]
    if masks_saved:
        averaged = assert_averaged(run.folder, models)
    else:
        for path in run.path().parent.glob("*.pt"):
            rewrite(path, without_masks)
        averaged = torch.load(average(run.folder, by="last").out, weights_only=True)["model"]
        assert not any(key.endswith("_mask") for key in averaged)
    out = run.path().parent / "checkpoint_average.pt"
    masks = read_mask_set(out)
    assert len(masks)
    for site, mask in masks.items():
        name = f"{ENCODER}{site}"
        key = name.replace(".weight", ".scores")
        scores = mean_of([model[key] for model in models])
        assert torch.equal(averaged[key], scores)
        assert torch.equal(averaged[name], models[0][name])
        assert torch.equal(mask, top(scores.abs(), kept_of(scores.numel(), 0.5))), name


def without_masks(state: dict[str, Any]) -> None:
    state["model"] = {k: v for k, v in state["model"].items() if not k.endswith("_mask")}
