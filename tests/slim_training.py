"""A toy that is slimmed update by update, beside slimming by hand of the same layers under Adam."""

from __future__ import annotations

import numpy as np
import torch
from slim_by_hand import HandLayer, HandPlan, SlimByHand, assert_state_is
from slim_toy import SlimToy, slim_toy_batch
from torch import nn

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


def kept_of(toy: SlimToy) -> dict[str, np.ndarray]:
    state = toy.state_dict()
    return {key: value.numpy() == 1 for key, value in state.items() if "_kept_" in key}


def assert_equal_states(one: nn.Module, two: nn.Module) -> None:
    first, second = one.state_dict(), two.state_dict()
    assert list(first) == list(second)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
