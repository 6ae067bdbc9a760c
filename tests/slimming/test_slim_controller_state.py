"""SlimController: when it chooses, in which precision, and what it saves."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch
from slim_toy import slim_toy_batch
from slim_training import (
    PLAN,
    PREFIX,
    UPDATES,
    Training,
    assert_equal_states,
    controller_of,
    kept_of,
    slimmed,
    step,
    train,
)

from speechprune.errors import UserError
from speechprune.slimming.criteria import CRITERIA

# --- when ----------------------------------------------------------------------------------------


def test_event_0_removes_nothing() -> None:
    toy = slimmed(PLAN)
    train(toy, range(PLAN.begin + 1))
    controller_of(toy).set_num_updates(PLAN.begin + 1)
    assert controller_of(toy).stats() == {"heads_removed": 0.0, "channels_removed": 0.0}
    assert all(bool(p.all()) for p in toy.layers.parameters() if p.dim() == 2)


def test_the_last_event_is_exactly_the_target() -> None:
    """At 0.9 of 20, 12 and 16 channels; the exponential schedule ends at 0.8999999999999999."""
    toy = slimmed(replace(PLAN, shares={"channels": 0.9}, shape="exp"))
    train(toy, range(PLAN.end))
    controller_of(toy).set_num_updates(PLAN.end)
    removed = [int((~each).sum()) for each in kept_of(toy).values()]
    assert removed == [18, 11, 14]
    assert controller_of(toy).stats() == pytest.approx({"channels_removed": 43 / 48})
    zeros = [int((layer.second.weight == 0).all(0).sum()) for layer in toy.layers]
    assert zeros == removed


def test_nothing_is_chosen_before_a_gradient_was_seen() -> None:
    """A layer that was passed over in all updates puts the choice off, but for the last one."""
    plan = replace(PLAN, criterion="snip", begin=0, end=6, every=2)
    toy = slimmed(plan)
    training = train(toy, range(4), without=dict.fromkeys(range(4), 1))
    controller_of(toy).set_num_updates(4)
    assert controller_of(toy).stats()["channels_removed"] == 0.0
    training.without = {}
    for update in (4, 5):
        step(training, update)
    controller_of(toy).set_num_updates(6)
    assert controller_of(toy).stats()["channels_removed"] == 29 / 48

    never = slimmed(plan)
    train(never, range(6), without=dict.fromkeys(range(6), 1))
    with pytest.raises(UserError, match="at update 6, but no gradient has ever reached") as caught:
        controller_of(never).set_num_updates(6)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("criterion", CRITERIA.names())
@pytest.mark.parametrize("update", [3, 7])
def test_an_update_that_is_told_before_a_checkpoint_is_loaded(criterion: str, update: int) -> None:
    """As fairseq does, be it that of the first choice or of the last one."""
    toy, untouched = (slimmed(replace(PLAN, criterion=criterion)) for _ in range(2))
    controller_of(toy).set_num_updates(update)
    assert_equal_states(toy, untouched)


def test_scores_that_are_no_numbers_choose_nothing() -> None:
    toy = slimmed(replace(PLAN, begin=0))
    training = Training(toy)
    controller_of(toy).set_num_updates(0)
    training.backward(0)
    toy.layers[1].second.weight.grad[0, 0] = float("nan")
    controller_of(toy).observe()
    controller_of(toy).set_num_updates(1)
    with pytest.raises(FloatingPointError):
        controller_of(toy).set_num_updates(2)
    assert all(each.all() for each in kept_of(toy).values())


@pytest.mark.parametrize("settled", [0, 2, 3, 4, 6, 7])
def test_settling_is_what_the_next_update_begins_with(settled: int) -> None:
    early, late = slimmed(PLAN), slimmed(PLAN)
    trainings = [train(toy, range(settled + 1)) for toy in (early, late)]
    controller_of(early).settle()
    controller_of(late).set_num_updates(settled + 1)
    assert_equal_states(early, late)
    controller_of(early).settle()
    controller_of(early).set_num_updates(settled + 1)
    assert_equal_states(early, late)
    for training in trainings:
        step(training, settled + 1)
    assert_equal_states(early, late)


def test_validation_changes_nothing() -> None:
    """Between all updates, and twice."""
    plain, validated = slimmed(PLAN), slimmed(PLAN)
    train(plain, range(UPDATES))
    training = Training(validated)
    for update in range(UPDATES):
        step(training, update)
        for _ in range(2):
            validated.eval()
            with torch.no_grad():
                validated(slim_toy_batch())
            validated.train()
    controller_of(plain).settle()
    assert_equal_states(plain, validated)


@pytest.mark.parametrize("skipped", [1, 2, 3, 5])
def test_a_step_that_overflowed_changes_nothing(skipped: int) -> None:
    """Nothing was observed and no step taken, but it was validated and saved all the same."""
    plain, skipping = slimmed(PLAN), slimmed(PLAN)
    train(plain, range(UPDATES))
    training = Training(skipping)
    for update in range(UPDATES):
        if update == skipped:
            controller_of(skipping).set_num_updates(update)
            before = copy.deepcopy(skipping.state_dict())
            training.backward(update)
            skipping.eval()
            controller_of(skipping).settle()
            skipping.train()
            after = skipping.state_dict()
            assert all(torch.equal(before[key], after[key]) for key in before)
        step(training, update)
    assert_equal_states(plain, skipping)


def test_micro_batches_begin_an_update_once() -> None:
    toy, often = slimmed(PLAN), slimmed(PLAN)
    train(toy, range(UPDATES))
    training = Training(often)
    for update in range(UPDATES):
        controller_of(often).set_num_updates(update)
        controller_of(often).set_num_updates(update)
        step(training, update)
    assert_equal_states(toy, often)


# --- precision and state -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_keep_their_precision(dtype: torch.dtype) -> None:
    toy = slimmed(PLAN, dtype)
    assert toy.layers[0].out.weight.dtype == dtype
    controller_of(toy).set_num_updates(0)
    for parameter in toy.layers.parameters():
        parameter.grad = torch.full_like(parameter, 2.0**-10)
    controller_of(toy).observe(2.0**-14)
    for key, value in toy.state_dict().items():
        if key.startswith(PREFIX):
            assert value.dtype == torch.float32
    # The product of an entry and 2^-24 is nothing in float16.
    expected = toy.layers[0].second.weight.float().abs().mean(0) * 2.0**-24
    found = controller_of(toy).channels_scores_0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)
    assert found.all()


def test_a_scale_is_of_gradients_alone() -> None:
    toy = slimmed(replace(PLAN, criterion="magnitude"))
    controller_of(toy).observe(torch.tensor(0.125))
    expected = toy.layers[0].second.weight.abs().mean(0)
    torch.testing.assert_close(controller_of(toy).channels_scores_0, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_copies_of_the_optimizer_are_set_to_zero_too(dtype: torch.dtype) -> None:
    """They are written over the model after each step."""
    toy = slimmed(PLAN, dtype)
    for parameter in toy.layers.parameters():
        parameter.master_copy = parameter.detach().float().clone()
    for update in range(UPDATES):
        controller_of(toy).set_num_updates(update)
        for index, parameter in enumerate(toy.layers.parameters()):
            generator = torch.Generator().manual_seed(100 * update + index)
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
        controller_of(toy).observe()
        for parameter in toy.layers.parameters():
            parameter.master_copy -= 0.01 * parameter.grad.float().sign()
            parameter.data.copy_(parameter.master_copy)
    controller_of(toy).settle()
    for number, layer in enumerate(toy.layers):
        heads = controller_of(toy).get_buffer(f"heads_kept_{number}").repeat_interleave(3) == 0
        channels = controller_of(toy).get_buffer(f"channels_kept_{number}") == 0
        assert heads.any() and channels.any()
        for weight in (layer.query.weight, layer.key.weight, layer.value.weight):
            for each in (weight, weight.master_copy):
                assert torch.equal((each == 0).all(1), heads)
        for weight, removed in ((layer.out.weight, heads), (layer.second.weight, channels)):
            for each in (weight, weight.master_copy):
                assert torch.equal((each == 0).all(0), removed)


@pytest.mark.parametrize("criterion", CRITERIA.names())
@pytest.mark.parametrize("saved", [3, 4, 5, 8])
def test_a_state_goes_on_as_if_never_stopped(criterion: str, saved: int) -> None:
    """Saved between choices, right after one (3, 5) and after the last."""
    plan = replace(PLAN, criterion=criterion)
    whole, resumed = slimmed(plan), slimmed(plan)
    first = train(whole, range(saved))
    controller_of(whole).settle()
    # fairseq tells a model its update before it loads the weights.
    controller_of(resumed).set_num_updates(saved)
    resumed.load_state_dict(whole.state_dict())
    second = Training(resumed)
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    for update in range(saved, UPDATES):
        step(first, update)
        step(second, update)
    assert_equal_states(whole, resumed)


def test_folding_leaves_the_network_that_was_claimed() -> None:
    toy, kept = slimmed(PLAN), slimmed(PLAN)
    for each in (toy, kept):
        train(each, range(UPDATES))
    kept.eval()
    controller_of(toy).fold()
    assert not any(key.startswith(PREFIX) for key in toy.state_dict())
    with torch.no_grad():
        assert torch.equal(toy(slim_toy_batch()), kept(slim_toy_batch()))
    assert controller_of(toy).stats() == {} and controller_of(toy).penalty() is None


def test_a_copy_is_a_controller_of_its_own() -> None:
    toy = slimmed(PLAN)
    train(toy, range(4))
    other = copy.deepcopy(toy)
    before = copy.deepcopy(toy.state_dict())
    train(other, range(4, UPDATES))
    assert all(torch.equal(before[key], value) for key, value in toy.state_dict().items())
    assert controller_of(other).stats()["channels_removed"] > 0.5


def test_nothing_to_remove_is_refused() -> None:
    with pytest.raises(UserError, match=re.escape("every layer is to stay whole")):
        slimmed(replace(PLAN, whole_layers=(0, 1, 2)))
