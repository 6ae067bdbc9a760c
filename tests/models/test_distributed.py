"""Two gloo processes choose equal masks, and train as one process with twice the micro-batches."""

from __future__ import annotations

import shutil
import socket
from functools import partial

import pytest
import torch
from loop import Lab, Run, run_together
from mishaps import save_own_model
from states import difference, keep, masks

UPDATES = 3
QUIET = (
    "model.apply_mask=false",
    "model.layerdrop=0",
    "model.dropout=0",
    "model.attention_dropout=0",
    "model.activation_dropout=0",
)
NOISY = ("model.layerdrop=0.3", "model.mask_prob=0.5", "model.fix_attn=false")
KEPT = ("checkpoint.save_interval_updates=1", "checkpoint.keep_interval_updates=-1")
CONFIG = "finetuning/base_1h"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("distributed"))


def two_ranks(lab: Lab, name: str, *overrides: str, hash_seeds: list[int] | None = None):
    """Train ``name`` in two processes; their runs and what each saved of its own."""
    address = f"tcp://localhost:{free_port()}"
    common = (
        f"optimization.max_update={UPDATES}",
        "distributed_training.distributed_world_size=2",
        f"distributed_training.distributed_init_method={address}",
        "distributed_training.distributed_no_spawn=true",
        "distributed_training.distributed_backend=gloo",
        "distributed_training.ddp_backend=legacy_ddp",
        *overrides,
    )
    commands = [
        lab.arguments(name, (*common, f"distributed_training.distributed_rank={rank}"), CONFIG)
        for rank in range(2)
    ]
    files = [lab.folder / f"{name}-{rank}.pt" for rank in range(2)]
    prepares = [partial(save_own_model, file, UPDATES) for file in files]
    runs = run_together(lab.folder / name, commands, prepares, hash_seeds)
    for run in runs:
        run.succeeded()
    return runs, [torch.load(file, weights_only=True) for file in files]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def noisy(lab: Lab) -> tuple[list[Run], list[dict]]:
    """Processes with hash seeds of their own and a checkpoint for each update."""
    return two_ranks(lab, "noisy", *NOISY, *KEPT, hash_seeds=[1, 2])


@pytest.fixture(scope="module")
def together(lab: Lab) -> tuple[list[Run], list[dict]]:
    return two_ranks(lab, "together", *QUIET)


def test_masks_and_scores_are_equal_on_both_ranks_whatever_their_hash_seeds(noisy) -> None:
    runs, (first, second) = noisy
    assert first["hash"] != second["hash"]
    found = masks(first["model"])
    assert len(found) == 12
    for name, mask in found.items():
        assert mask.sum() == keep(mask.size, 0.9), name
    assert difference(first["model"], second["model"]) == []
    assert difference(first["model"], runs[0].model()) == []
    moved = [record["flipped"] for record in runs[0].records("train_inner")]
    assert any(float(count) > 0 for count in moved)


def test_units_are_equal_on_both_ranks(lab: Lab) -> None:
    """Heads and channels, whose scores get gradient from several weights."""
    flags = ("model.linear_st_op=linear_st_head", "model.no_prune_post_extract_proj=true")
    steps = ("model.prune_rate=0.6", "optimization.lr=[0.3]")
    runs, (first, second) = two_ranks(lab, "units", *NOISY, *flags, *steps, hash_seeds=[1, 2])
    assert difference(first["model"], second["model"]) == []
    assert difference(first["model"], runs[0].model()) == []
    moved = [record["flipped"] for record in runs[0].records("train_inner")]
    assert any(float(count) > 0 for count in moved)


def test_two_ranks_resume_as_if_never_stopped(lab: Lab, noisy) -> None:
    (whole, _), _ = noisy
    checkpoints = lab.folder / "resumed" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(whole.path("1_1"), checkpoints / "checkpoint_last.pt")
    (resumed, _), _ = two_ranks(lab, "resumed", *NOISY, *KEPT)
    assert resumed.records("train_inner")[0]["num_updates"] == "2"
    assert difference(resumed.model(), whole.model()) == []


def test_ranks_stay_equal_without_noise(together) -> None:
    _, (first, second) = together
    assert difference(first["model"], second["model"]) == []


def test_two_ranks_train_as_one_with_two_micro_batches(lab: Lab, together) -> None:
    """Each rank takes every other batch, as `update_freq=[2]` does."""
    runs, _ = together
    alone = lab.train("alone", *QUIET, "optimization.update_freq=[2]", updates=UPDATES).succeeded()
    losses = [[r["loss"] for r in run.records("train_inner")] for run in (runs[0], alone)]
    assert losses[0] == losses[1]
    one, two = alone.model(), runs[0].model()
    assert list(one) == list(two)
    for name, mask in masks(one).items():
        assert (mask == masks(two)[name]).all(), name
        scores = name[: -len("weight")] + "scores"
        torch.testing.assert_close(one[scores], two[scores], rtol=0, atol=1e-5)


def test_only_the_first_rank_writes_checkpoints(together) -> None:
    runs, _ = together
    files = sorted(path.name for path in (runs[0].folder / "checkpoints").iterdir())
    assert files == ["checkpoint_best.pt", "checkpoint_last.pt"]
    assert "Saving checkpoint" in runs[0].output and "Saving checkpoint" not in runs[1].output


def test_ranks_stay_equal_without_dropped_layers(lab: Lab) -> None:
    dropped = ("model._name=wav2vec_ctc_pruned", "model.drop_layers=[0]")
    runs, (first, second) = two_ranks(lab, "dropped", *NOISY, *dropped)
    assert difference(first["model"], second["model"]) == []
    layers = {key.split(".")[4] for key in runs[0].model() if ".encoder.layers." in key}
    assert layers == {"0"}
