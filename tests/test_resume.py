"""A run that is killed and resumed ends as if it had never been killed, bit for bit."""

from __future__ import annotations

import signal
from functools import partial

import pytest
from loop import Lab, Prepare, Run, difference, kill_after_update, kill_while_writing, masks

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
KINDS = {"frozen": (), "co_train": ("model.co_train=true", "model.trainable_layer_norm=true")}
UPDATES = 9
UPDATES_IN_EPOCH = 5


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def frozen(lab: Lab) -> Run:
    return lab.train("frozen", *QUIET, updates=UPDATES).succeeded()


@pytest.fixture(scope="module")
def co_train(lab: Lab) -> Run:
    return lab.train("co_train", *QUIET, *KINDS["co_train"], updates=UPDATES).succeeded()


def killed_and_resumed(lab: Lab, name: str, prepare: Prepare, *overrides: str) -> Run:
    """The run that went on where the run ``name`` had been killed as ``prepare`` says."""
    overrides = (*NOISY, *overrides)
    killed = lab.train(name, *overrides, updates=UPDATES, prepare=prepare)
    assert killed.exit_code == -signal.SIGKILL, killed.output[-3000:]
    return lab.train(name, *overrides, updates=UPDATES).succeeded()


def resumed_at(run: Run) -> int:
    """The number of updates that the resumed run had found done."""
    return int(run.records("train_inner")[0]["num_updates"]) - 1


def assert_ends_equal(run: Run, other: Run) -> None:
    """Weights, scores, masks, moments, learning rate and place in the data are equal."""
    first, second = run.checkpoint(), other.checkpoint()
    assert difference(first["model"], second["model"]) == []
    assert difference(first["last_optimizer_state"], second["last_optimizer_state"]) == []
    assert first["extra_state"]["train_iterator"] == second["extra_state"]["train_iterator"]
    assert {c["optimizer_history"][-1]["num_updates"] for c in (first, second)} == {UPDATES}


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


@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_the_middle_of_an_epoch(lab: Lab, kind: str, request) -> None:
    whole = request.getfixturevalue(kind)
    resumed = killed_and_resumed(
        lab,
        f"{kind}-middle",
        partial(kill_after_update, 4),
        "checkpoint.save_interval_updates=3",
        *KINDS[kind],
    )
    assert resumed_at(resumed) == 3
    assert_ends_equal(resumed, whole)


def test_killed_after_an_epoch(lab: Lab, frozen: Run) -> None:
    resumed = killed_and_resumed(
        lab,
        "after-an-epoch",
        partial(kill_after_update, UPDATES_IN_EPOCH + 1),
        "checkpoint.save_interval=1",
        "checkpoint.save_interval_updates=0",
    )
    assert resumed_at(resumed) == UPDATES_IN_EPOCH
    assert_ends_equal(resumed, frozen)


def test_killed_while_writing_a_checkpoint_and_again(lab: Lab, frozen: Run) -> None:
    """A half-written file is not the one that the next run reads."""
    options = (*NOISY, "checkpoint.save_interval_updates=2")
    for found, prepare in ((0, partial(kill_while_writing, 2)), (2, partial(kill_after_update, 7))):
        run = lab.train("twice", *options, updates=UPDATES, prepare=prepare)
        assert run.exit_code == -signal.SIGKILL
        assert resumed_at(run) == found
    resumed = lab.train("twice", *options, updates=UPDATES).succeeded()
    assert resumed_at(resumed) == 6
    assert_ends_equal(resumed, frozen)


@pytest.mark.parametrize("kind", KINDS)
def test_validating_and_saving_changes_nothing(lab: Lab, kind: str, request) -> None:
    whole = request.getfixturevalue(kind)
    often = lab.train(
        f"{kind}-often",
        *NOISY,
        *KINDS[kind],
        "checkpoint.save_interval_updates=1",
        "dataset.validate_interval_updates=1",
        updates=UPDATES,
    ).succeeded()
    assert len(often.records("valid")) == UPDATES
    assert_ends_equal(often, whole)
