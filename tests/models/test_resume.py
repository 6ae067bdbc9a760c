"""A run that is killed and resumed ends as if it had never been killed, bit for bit."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import torch
from loop import Lab, Prepare, Run
from mishaps import kill_after_update, spoil_checkpoint
from states import assert_ends_equal, masks

from speechprune.locks import locked

#: Everything that draws random numbers is on; five updates are an epoch.
NOISY = (
    "optimization.update_freq=[2]",
    "model.layerdrop=0.3",
    "model.mask_prob=0.5",
    "model.mask_channel_prob=0.5",
    "model.fix_attn=false",
)
#: Nothing is validated or saved before the end.
QUIET = (*NOISY, "checkpoint.save_interval_updates=0", "dataset.validate_interval_updates=0")
KINDS = ("frozen", "co_train", "data2vec", "bf16")
UPDATES = 9
UPDATES_IN_EPOCH = 5


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("resume"))


def settings(lab: Lab, kind: str) -> tuple[str, ...]:
    """What sets one kind of run apart."""
    return {
        "frozen": (),
        "co_train": ("model.co_train=true", "model.trainable_layer_norm=true"),
        "bf16": ("common.bf16=true",),
        "data2vec": (
            f"model.w2v_path={lab.data2vec}",
            "task.normalize=true",
            "model.checkpoint_activations=true",
        ),
    }[kind]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def frozen(lab: Lab) -> Run:
    return lab.train("frozen", *QUIET, updates=UPDATES).succeeded()


@pytest.fixture(scope="module")
def whole(lab: Lab, kind: str, frozen: Run) -> Run:
    """A run of ``kind`` that was never interrupted."""
    if kind == "frozen":
        return frozen
    return lab.train(kind, *QUIET, *settings(lab, kind), updates=UPDATES).succeeded()


def killed_and_resumed(lab: Lab, name: str, prepare: Prepare, *overrides: str) -> Run:
    """The run that went on where the run ``name`` had been killed as ``prepare`` says."""
    overrides = (*NOISY, *overrides)
    killed = lab.train(name, *overrides, updates=UPDATES, prepare=prepare)
    assert killed.exit_code == -signal.SIGKILL, killed.output[-3000:]
    return lab.train(name, *overrides, updates=UPDATES).succeeded()


def resumed_at(run: Run) -> int:
    """The number of updates that the resumed run had found done."""
    return int(run.records("train_inner")[0]["num_updates"]) - 1


def test_updates_of_an_epoch(frozen: Run) -> None:
    """The premise of the tests below: kills in and between epochs are where they claim to be."""
    epochs = [record["epoch"] for record in frozen.records("train_inner")]
    assert epochs == [1] * UPDATES_IN_EPOCH + [2] * (UPDATES - UPDATES_IN_EPOCH)
    assert len(frozen.records("valid")) == 1


def test_noise_matters(lab: Lab, frozen: Run) -> None:
    """Equal ends mean something only if the random numbers change them."""
    other = lab.train("other-seed", *QUIET, "common.seed=2", updates=2).succeeded()
    losses = [run.records("train_inner")[0]["loss"] for run in (frozen, other)]
    assert losses[0] != losses[1]
    assert all((~mask).any() for mask in masks(frozen.model()).values())


def test_killed_in_the_middle_of_an_epoch(lab: Lab, kind: str, whole: Run) -> None:
    resumed = killed_and_resumed(
        lab,
        f"{kind}-middle",
        partial(kill_after_update, 4),
        "checkpoint.save_interval_updates=3",
        *settings(lab, kind),
    )
    assert resumed_at(resumed) == 3
    assert_ends_equal(resumed, whole, UPDATES)


def test_killed_after_an_epoch(lab: Lab, frozen: Run) -> None:
    resumed = killed_and_resumed(
        lab,
        "after-an-epoch",
        partial(kill_after_update, UPDATES_IN_EPOCH + 1),
        "checkpoint.save_interval=1",
        "checkpoint.save_interval_updates=0",
    )
    assert resumed_at(resumed) == UPDATES_IN_EPOCH
    assert_ends_equal(resumed, frozen, UPDATES)


@pytest.mark.parametrize("updates", [UPDATES, UPDATES_IN_EPOCH])
def test_started_again_after_its_end_nothing_is_trained(lab: Lab, updates: int) -> None:
    name = f"ended-{updates}"
    ended = lab.train(name, *NOISY, updates=updates).succeeded()
    before = ended.path().read_bytes()
    again = lab.train(name, *NOISY, updates=updates).succeeded()
    assert f"nothing to train: {updates} of {updates} updates are done" in again.output
    assert not again.records("train_inner") and again.path().read_bytes() == before
    further = lab.train(name, *NOISY, updates=updates + 1).succeeded()
    assert resumed_at(further) == updates


def test_killed_while_writing_a_checkpoint_and_again(lab: Lab, frozen: Run) -> None:
    """A half-written file is not the one that the next run reads."""
    options = (*NOISY, "checkpoint.save_interval_updates=2")
    half = partial(spoil_checkpoint, 2, "write", kill=True)
    for found, prepare in ((0, half), (2, partial(kill_after_update, 7))):
        run = lab.train("twice", *options, updates=UPDATES, prepare=prepare)
        assert run.exit_code == -signal.SIGKILL
        assert resumed_at(run) == found
    resumed = lab.train("twice", *options, updates=UPDATES).succeeded()
    assert resumed_at(resumed) == 6
    assert_ends_equal(resumed, frozen, UPDATES)


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "full-disk"])
@pytest.mark.parametrize("step", ["write", "copy"])
def test_the_previous_checkpoint_survives(lab: Lab, step: str, kill: bool) -> None:
    run = lab.train(
        f"{step}-{kill}",
        "checkpoint.save_interval_updates=1",
        updates=3,
        prepare=partial(spoil_checkpoint, 2, step, kill),
    )
    assert run.exit_code == (-signal.SIGKILL if kill else 1)
    assert kill or "No space left on device" in run.output
    assert run.checkpoint()["optimizer_history"][-1]["num_updates"] == 1
    for path in run.path().parent.glob("*.pt"):
        torch.load(path, weights_only=True)


def test_a_damaged_last_checkpoint_is_gone_on_without(lab: Lab, frozen: Run) -> None:
    options = (*NOISY, "checkpoint.save_interval_updates=3", "checkpoint.keep_interval_updates=-1")
    kill = partial(kill_after_update, 8)
    killed = lab.train("damaged", *options, updates=UPDATES, prepare=kill)
    killed.path().write_bytes(b"")
    for name in ("best", "2_6"):
        os.truncate(killed.path(name), 1000)
    with locked(killed.path().parent):
        refused = lab.train("damaged", *options, updates=UPDATES)
    assert refused.exit_code == 1 and killed.path().read_bytes() == b""
    assert f"another process is writing to {killed.path().parent} (process" in refused.output
    resumed = lab.train("damaged", *options, updates=UPDATES).succeeded()
    assert "checkpoint_last.pt is empty; going on from checkpoint_1_3.pt" in resumed.output
    assert resumed_at(resumed) == 3
    assert_ends_equal(resumed, frozen, UPDATES)


@pytest.mark.parametrize("kind", ["frozen", "co_train"], indirect=True)
def test_validating_and_saving_changes_nothing(lab: Lab, kind: str, whole: Run) -> None:
    often = lab.train(
        f"{kind}-often",
        *NOISY,
        *settings(lab, kind),
        "checkpoint.save_interval_updates=1",
        "dataset.validate_interval_updates=1",
        updates=UPDATES,
    ).succeeded()
    assert len(often.records("valid")) == UPDATES
    assert_ends_equal(often, whole, UPDATES)
