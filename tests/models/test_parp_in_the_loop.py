"""PARP in fairseq's loop: validated, saved, killed, in half precision and in several processes."""

from __future__ import annotations

import signal
from functools import partial

import pytest
import torch
from loop import Lab, Run
from mishaps import kill_after_update
from parp_by_hand import (
    KEPT,
    Plan,
    assert_every_step_is_parps,
    assert_pruned,
    checkpoint_at,
    prunable,
    regrown_weights,
    saved_masks,
)
from states import assert_ends_equal, difference
from test_distributed import QUIET as WITHOUT_NOISE
from test_distributed import UPDATES as UPDATES_OF_RANKS
from test_distributed import two_ranks

PLAN = Plan(every=3, start=0.2, sparsity=0.6, end=6)
UPDATES = 8
#: Everything that draws random numbers is on, and each update has two micro-batches.
NOISY = (
    *PLAN.flags,
    "optimization.update_freq=[2]",
    "model.layerdrop=0.3",
    "model.mask_prob=0.5",
    "model.mask_channel_prob=0.5",
)
QUIET = ("checkpoint.save_interval_updates=0", "dataset.validate_interval_updates=0")
OFTEN = (*KEPT, "dataset.validate_interval_updates=1")
PRECISIONS = {
    "fp32": (),
    "bf16": ("common.bf16=true",),
    "memory_efficient_bf16": ("common.bf16=true", "common.memory_efficient_bf16=true"),
    "fp16": ("common.fp16=true",),
    "memory_efficient_fp16": ("common.fp16=true", "common.memory_efficient_fp16=true"),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("parp-in-the-loop"))


@pytest.fixture(scope="module", params=["fp32", "bf16", "fp16"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def often(lab: Lab, precision: str) -> Run:
    """A run that was validated and saved at each update."""
    flags = (*NOISY, *OFTEN, *PRECISIONS[precision])
    run = lab.train(f"often-{precision}", *flags, updates=UPDATES, prepare=without_device)
    return run.succeeded()


def without_device() -> None:
    """Let fairseq's fp16, which asks which device is in use, train on the CPU."""
    torch.cuda.current_device = lambda: None


def kill_without_device(update: int) -> None:
    without_device()
    kill_after_update(update)


@pytest.mark.parametrize("precision", ["fp32", "bf16"], indirect=True)
def test_validating_and_saving_changes_nothing(lab: Lab, precision: str, often: Run) -> None:
    flags = (*NOISY, *QUIET, *PRECISIONS[precision])
    quiet = lab.train(f"quiet-{precision}", *flags, updates=UPDATES, prepare=without_device)
    assert len(often.records("valid")) == UPDATES
    assert len(quiet.succeeded().records("valid")) == 1
    assert_ends_equal(quiet, often, UPDATES)


@pytest.mark.parametrize("precision", ["fp32", "bf16"], indirect=True)
def test_killed_between_two_choices_of_masks(lab: Lab, precision: str, often: Run) -> None:
    """What grew again, and its fp32 copies, are neither lost nor pruned once more."""
    flags = (*NOISY, "checkpoint.save_interval_updates=4", *PRECISIONS[precision])
    name, prepare = f"killed-{precision}", partial(kill_without_device, 5)
    killed = lab.train(name, *flags, updates=UPDATES, prepare=prepare)
    assert killed.exit_code == -signal.SIGKILL, killed.output[-3000:]
    saved = killed.checkpoint()
    assert saved["optimizer_history"][-1]["num_updates"] == 4 and not PLAN.selects(4)
    assert all(weight.count_nonzero() for weight in regrown_weights(saved["model"]).values())
    resumed = lab.train(name, *flags, updates=UPDATES, prepare=without_device).succeeded()
    assert resumed.records("train_inner")[0]["num_updates"] == "5"
    assert_ends_equal(resumed, often, UPDATES)


@pytest.mark.parametrize("precision", ["fp32"], indirect=True)
def test_going_on_from_a_named_checkpoint(lab: Lab, precision: str, often: Run) -> None:
    """`checkpoint.restore_file` goes on with a run too, from another folder."""
    source = next(often.path().parent.glob("checkpoint_*_4.pt"))
    flags = (*NOISY, f"checkpoint.restore_file={source}", *PRECISIONS[precision])
    name = f"restored-{precision}"
    run = lab.train(name, *flags, updates=UPDATES, prepare=without_device).succeeded()
    assert run.records("train_inner")[0]["num_updates"] == "5"
    assert_ends_equal(run, often, UPDATES)


def test_every_update_is_one_of_parp(lab: Lab, often: Run) -> None:
    """With two micro-batches, layers dropped, and fp32 copies where there are some."""
    assert_every_step_is_parps(often, lab, NOISY, PLAN)


def test_half_precision_follows_its_copies(lab: Lab, precision: str, often: Run) -> None:
    """What is saved is the fp32 copies, rounded."""
    dtype = DTYPES[precision]
    rounded = 0
    for update in range(1, UPDATES + 1):
        saved = checkpoint_at(often, update)
        weights = regrown_weights(saved["model"])
        assert all(torch.equal(w, w.to(dtype).float()) for w in weights.values())
        copies = saved["last_optimizer_state"].get("fp32_params", ())
        entries = torch.cat([copy.flatten() for copy in copies]) if copies else torch.zeros(0)
        rounded += int((entries != entries.to(dtype).float()).sum())
        found = torch.cat([weight.flatten() for weight in weights.values()])
        if copies:
            assert torch.isin(found, entries.to(dtype).float()).all()
    assert (rounded > 0) == (precision != "fp32")


def assert_removed_stay_removed(run: Run, plan: Plan, dtype: torch.dtype) -> None:
    """Nothing moves, so what the first choice removed is zero ever after, in training too."""
    weights = regrown_weights(checkpoint_at(run.succeeded(), 1)["model"])
    entries = sum(weight.numel() for weight in weights.values())
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert zeros == int(plan.sparsity * entries)
    for update in range(1, UPDATES_OF_RANKS + 1):
        model = checkpoint_at(run, update)["model"]
        assert_pruned(model, plan, update)
        assert difference(regrown_weights(model), weights) == [], update
        for name in prunable():
            assert not model[f"{name}_regrown"].any(), (update, name)
            assert torch.equal(model[name], model[name].to(dtype).float())


@pytest.mark.parametrize(
    "kind, device",
    [
        *((kind, "cpu") for kind in PRECISIONS),
        *(pytest.param(kind, "cuda", marks=pytest.mark.cuda) for kind in PRECISIONS),
    ],
)
def test_pruned_weights_do_not_come_back(lab: Lab, kind: str, device: str) -> None:
    """Without a learning rate, nothing but a forgotten copy could make them other than zero."""
    plan = Plan(every=1)
    flags = (*plan.flags, *KEPT, "optimization.lr=[0.0]", *PRECISIONS[kind])
    on = (f"common.cpu={str(device == 'cpu').lower()}",)
    prepare = without_device if device == "cpu" else None
    name = f"still-{kind}-{device}"
    run = lab.train(name, *flags, *on, updates=UPDATES_OF_RANKS, prepare=prepare)
    assert_removed_stay_removed(run, plan, DTYPES.get(kind.rpartition("_")[2], torch.float32))


@pytest.fixture(scope="module")
def ranks(lab: Lab) -> tuple[list[Run], list[dict]]:
    """Two processes, masks chosen before the first and the third of three updates."""
    return two_ranks(lab, "ranks", *Plan(every=2).flags, *WITHOUT_NOISE, *KEPT)


def test_two_ranks_prune_alike(lab: Lab, ranks: tuple[list[Run], list[dict]]) -> None:
    (run, _), (first, second) = ranks
    assert difference(first["model"], second["model"]) == []
    assert difference(first["model"], run.model()) == []
    flags = (*Plan(every=2).flags, *WITHOUT_NOISE)
    assert_every_step_is_parps(run, lab, flags, Plan(every=2))


def test_two_ranks_train_as_one_with_two_micro_batches(
    lab: Lab, ranks: tuple[list[Run], list[dict]]
) -> None:
    """Each rank takes every other batch, as `update_freq=[2]` does."""
    (run, _), _ = ranks
    flags = (*Plan(every=2).flags, *WITHOUT_NOISE, *KEPT, "optimization.update_freq=[2]")
    alone = lab.train("alone", *flags, updates=UPDATES_OF_RANKS).succeeded()
    losses = [[r["loss"] for r in each.records("train_inner")] for each in (run, alone)]
    assert losses[0] == losses[1]
    for update in range(1, UPDATES_OF_RANKS + 1):
        models = [checkpoint_at(each, update)["model"] for each in (run, alone)]
        trained, masks = map(regrown_weights, models), list(map(saved_masks, models))
        one, two = trained
        for name in prunable():
            torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5)
            assert torch.equal(masks[0][name], masks[1][name]), (update, name)
