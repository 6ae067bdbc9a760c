"""SlimController, update by update, beside slimming by hand of the same three layers under Adam."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from slim_by_hand import HandLayer, HandPlan, SlimByHand, assert_state_is
from slim_toy import SlimToy, slim_toy_batch
from torch import nn

from speechprune.errors import UserError
from speechprune.slimming.controller import SlimController
from speechprune.slimming.criteria import CRITERIA
from speechprune.slimming.schedule import SlimSchedule
from speechprune.slimming.targets import Budget, ProgressiveTarget, Shares

SHAPE = ((4, 20), (3, 12), (4, 16))
#: Heads that go: 2 of 4, 2 of 3 (1.5 rounds to even) and 2 of 4.
PLAN = HandPlan({"heads": 0.5, "channels": 0.6}, begin=1, end=7, every=2)
UPDATES = 9
PREFIX = "slim_controller."


def target_of(plan: HandPlan) -> ProgressiveTarget:
    """What the package calls a plan."""

    def schedule(share: float) -> SlimSchedule:
        return SlimSchedule(share, plan.begin, plan.end, plan.every, plan.shape)

    if plan.keep is not None:
        costs = dict(plan.costs)
        return Budget(
            "parameters", plan.total, costs, schedule(1 - plan.keep), plan.floor, plan.cap
        )
    schedules = {kind: schedule(share) for kind, share in plan.shares.items()}
    return Shares(schedules, plan.scope, plan.floor, plan.cap)


def slimmed(plan: HandPlan, dtype: torch.dtype = torch.float32) -> SlimToy:
    """A toy with a controller."""
    toy = SlimToy(SHAPE)
    toy.slim_controller = SlimController(
        toy.units(), CRITERIA.build(plan.criterion), target_of(plan), plan.whole_layers
    )
    return toy.to(dtype)


def by_hand(toy: SlimToy, plan: HandPlan) -> SlimByHand:
    layers = [
        HandLayer(
            [each.query.weight, each.key.weight, each.value.weight],
            each.out.weight,
            each.second.weight,
            each.heads,
        )
        for each in toy.layers
    ]
    return SlimByHand(layers, plan)


class Training:
    """Updates of a toy; those in ``without`` pass over one layer, as layerdrop does."""

    def __init__(self, toy: SlimToy, without: dict[int, int] | None = None) -> None:
        self.toy = toy
        self.without = without or {}
        self.optimizer = torch.optim.Adam(toy.layers.parameters(), lr=0.02)

    def backward(self, update: int) -> None:
        self.optimizer.zero_grad()
        x = slim_toy_batch(update)
        goal = slim_toy_batch(100 + update)
        for number, layer in enumerate(self.toy.layers):
            if number != self.without.get(update):
                x = layer(x)
        (x - goal).square().mean().backward()


def controller_of(toy: SlimToy) -> SlimController:
    controller: SlimController = toy.slim_controller
    return controller


def train(toy: SlimToy, updates: range, without: dict[int, int] | None = None) -> Training:
    training = Training(toy, without)
    for update in updates:
        step(training, update)
    return training


def step(training: Training, update: int) -> None:
    controller = controller_of(training.toy)
    controller.set_num_updates(update)
    training.backward(update)
    controller.observe()
    training.optimizer.step()


def assert_follows(plan: HandPlan, without: dict[int, int] | None = None) -> SlimByHand:
    """Scores, choices and weights are those of slimming by hand at each update."""
    ours, theirs = Training(slimmed(plan), without), Training(SlimToy(SHAPE), without)
    hand = by_hand(theirs.toy, plan)
    for update in range(UPDATES):
        controller_of(ours.toy).set_num_updates(update)
        hand.begin(update)
        assert_equal_weights(ours.toy, theirs.toy)
        assert_state_is(ours.toy.state_dict(), hand)
        for training in (ours, theirs):
            training.backward(update)
        controller_of(ours.toy).observe()
        hand.observe()
        for training in (ours, theirs):
            training.optimizer.step()
    return hand


def assert_equal_weights(one: nn.Module, two: nn.Module) -> None:
    first, second = (dict(each.layers.state_dict()) for each in (one, two))
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# --- beside the reference ------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["local", "global", "global_normalised"])
@pytest.mark.parametrize("criterion", CRITERIA.names())
def test_every_criterion_and_scope(criterion: str, scope: str) -> None:
    hand = assert_follows(replace(PLAN, criterion=criterion, scope=scope))
    for kind, units, share in (("heads", 11, 0.5), ("channels", 48, 0.6)):
        kept = sum(each.sum() for key, each in hand.kept.items() if key[0] == kind)
        rounded = (
            {"heads": 5, "channels": 19}[kind] if scope == "local" else units - round(share * units)
        )
        assert kept == rounded


@pytest.mark.parametrize("shape", ["exp", "linear", "cos", "cubic", "intel_cube"])
def test_every_schedule(shape: str) -> None:
    hand = assert_follows(replace(PLAN, shape=shape, every=1))
    assert [int((~hand.kept["channels", n]).sum()) for n in range(3)] == [12, 7, 10]


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "global", "floor": 0.3, "cap": 0.7},
        {"scope": "global_normalised", "floor": 0.4, "cap": 0.65},
        {"scope": "global", "cap": 0.6},
        {"whole_layers": (0, 2)},
        {"whole_layers": (1,), "scope": "global"},
        {"shares": {"heads": 0.5}},
        {"shares": {"channels": 0.93}, "scope": "global"},
        {"shares": {"channels": 0.95}},
        {"begin": 0, "end": 8, "every": 8},
        {"begin": 3, "end": 8, "every": 2},
    ],
    ids=str,
)
def test_bounds_kinds_and_layers(changes: dict[str, Any]) -> None:
    assert_follows(replace(PLAN, **changes))


def budget(keep: float, costs: dict[str, tuple[int, ...]], **changes: Any) -> HandPlan:
    """A plan with the costs of a head, or of a channel, of each layer."""
    found = {(kind, n): cost for kind, each in costs.items() for n, cost in enumerate(each)}
    units = {("heads", n): heads for n, (heads, _) in enumerate(SHAPE)}
    units.update({("channels", n): channels for n, (_, channels) in enumerate(SHAPE)})
    total = 1000 + sum(cost * units[key] for key, cost in found.items())
    return replace(PLAN, shares={}, keep=keep, total=total, costs=found, **changes)


EVEN = {"heads": (105, 105, 105), "channels": (17, 17, 17)}
UNEVEN = {"heads": (401, 97, 263), "channels": (13, 31, 7)}


@pytest.mark.parametrize("criterion", CRITERIA.names())
@pytest.mark.parametrize(
    "costs, changes",
    [
        (EVEN, {}),
        (UNEVEN, {}),
        (UNEVEN, {"floor": 0.25, "cap": 0.8}),
        ({"channels": UNEVEN["channels"]}, {"shape": "linear"}),
    ],
    ids=["even", "uneven", "bounds", "channels"],
)
def test_budgets(criterion: str, costs: dict[str, tuple[int, ...]], changes: Any) -> None:
    plan = budget(0.7, costs, criterion=criterion, **changes)
    hand = assert_follows(plan)
    assert hand.cost(hand.kept) <= 0.7 * plan.total
    if plan.floor:
        return
    for key, kept in hand.kept.items():
        for unit in np.flatnonzero(~kept):
            more = {**hand.kept, key: kept | (np.arange(len(kept)) == unit)}
            assert hand.cost(more) > 0.7 * plan.total, (key, unit)


@pytest.mark.parametrize("criterion", CRITERIA.names())
def test_a_layer_without_gradient_keeps_its_scores(criterion: str) -> None:
    """Also in the update just before a choice."""
    assert_follows(replace(PLAN, criterion=criterion), without={2: 1, 4: 0, 5: 2, 6: 0})


@pytest.mark.parametrize(
    "criterion, come_back", [("gradient", True), ("magnitude", False), ("snip", False)]
)
def test_removed_units_come_back(criterion: str, come_back: bool) -> None:
    """Where weights do not count: without them, a unit has no magnitude and nothing to lose."""
    plan = replace(PLAN, criterion=criterion, begin=0, end=8, every=1, shape="linear")
    toy, before, back = slimmed(plan), None, 0
    training = Training(toy)
    for update in range(UPDATES):
        kept = kept_of(toy)
        step(training, update)
        if before is not None:
            back += sum(int((kept[key] & ~before[key]).sum()) for key in kept)
        before = kept
    assert (back > 0) == come_back


def kept_of(toy: SlimToy) -> dict[str, np.ndarray]:
    state = toy.state_dict()
    return {key: value.numpy() == 1 for key, value in state.items() if "_kept_" in key}


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


def assert_equal_states(one: nn.Module, two: nn.Module) -> None:
    first, second = one.state_dict(), two.state_dict()
    assert list(first) == list(second)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


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
