"""Real runs, averaged: their values in validation, their masks, and what comes of the average."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from averages import ENCODER, WEIGHT, run_command
from click.testing import CliRunner
from loop import Lab, Run
from parp_by_hand import KEPT, Plan, checkpoint_at

from speechprune.baseline_masks import Ranking
from speechprune.checkpoint import load_finetuned
from speechprune.checkpoint.averaging import average
from speechprune.checkpoint.masks import read_mask_set
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


@pytest.mark.parametrize("kind", ["router", "parp"])
def test_a_run_whose_masks_move_is_refused(lab: Lab, kind: str) -> None:
    flags = Plan(every=1).flags if kind == "parp" else ("model.prune_rate=0.5",)
    run = lab.train(kind, *FLAGS, *flags, updates=3).succeeded()
    first, last = (checkpoint_at(run, update)["model"] for update in (1, 3))
    moved = [k for k in last if k.endswith("_mask") and not torch.equal(first[k], last[k])]
    assert moved
    result = run_command(run.folder, "--by", "last")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "_mask differs between" in result.stderr and "fixed masks" in result.stderr
    assert not (run.folder / "checkpoints" / "checkpoint_average.pt").exists()
