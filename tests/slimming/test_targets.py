"""What is to stay at each event: shares of units, or a budget of cost."""

from __future__ import annotations

import random

import pytest
import torch
from checkpoints import refusal
from torch import Tensor

from speechprune.slimming.schedule import SlimSchedule
from speechprune.slimming.targets import Budget, Shares

Key = tuple[str, int]
COUNTS = {"heads": (4, 6), "channels": (16, 24)}


def schedule(share: float, shape: str = "linear") -> SlimSchedule:
    """Events 0 to 4."""
    return SlimSchedule(share, 10, 30, 5, shape)


def scores(seed: int = 0, kinds: tuple[str, ...] = ("heads", "channels")) -> dict[Key, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        (kind, layer): torch.rand(count, generator=generator)
        for kind in kinds
        for layer, count in enumerate(COUNTS[kind])
    }


def removed(kept: dict[Key, Tensor]) -> dict[Key, int]:
    return {key: int((~each).sum()) for key, each in kept.items()}


def test_shares_of_each_kind_follow_their_own_schedule() -> None:
    shares = Shares({"channels": schedule(0.5), "heads": schedule(0.25)})
    assert shares.kinds == ("heads", "channels")
    assert list(shares.schedule.events) == [10, 15, 20, 25, 30]
    # 0.25 * 0.25, ... of 4 and of 6 heads, rounded, and 0.5 * 0.25, ... of the channels.
    expected = [(0, 0, 0, 0), (0, 0, 2, 3), (0, 1, 4, 6), (1, 1, 6, 9), (1, 2, 8, 12)]
    for event, counts in enumerate(expected):
        assert tuple(removed(shares.select(scores(), event)).values()) == counts


def test_a_floor_grows_with_the_share() -> None:
    """All of the small scores are in one layer, but the other one loses its floor."""
    found = {("channels", 0): torch.arange(16.0), ("channels", 1): 100 + torch.arange(24.0)}
    shares = Shares({"channels": schedule(0.5)}, "global", floor=0.25, cap=0.75)
    assert [tuple(removed(shares.select(found, event)).values()) for event in range(5)] == [
        (0, 0),
        (2, 3),  # 5 of 40: its share is the floor of both
        (4, 6),
        (9, 6),
        (12, 8),
    ]


def test_what_cannot_be_met_is_found_before_training() -> None:
    counts = {("heads", 0): 4, ("heads", 1): 6}
    message = refusal(Shares({"heads": schedule(0.9)}, "global").check, counts)
    assert "removes 9 of 10 units, but no more than 8 can go" in message
    Shares({"heads": schedule(0.8)}, "global").check(counts)
    Shares({"heads": schedule(0.9)}).check(counts)
    assert "give a share of heads or of channels" in refusal(Shares, {})


def budget_of(keep: float, costs: dict[Key, int], fixed: int = 0, **bounds: float) -> Budget:
    total = fixed + sum(cost * COUNTS[kind][layer] for (kind, layer), cost in costs.items())
    return Budget("parameters", total, costs, schedule(1 - keep), **bounds)


def cost(budget: Budget, kept: dict[Key, Tensor]) -> int:
    return budget.total - sum(n * budget.costs[key] for key, n in removed(kept).items())


@pytest.mark.parametrize("seed", range(20))
def test_budgets_are_met_from_below(seed: int) -> None:
    """Each of the removed units would exceed it, at each event."""
    rng = random.Random(seed)
    costs = {key: rng.randint(1, 200) for key in scores()}
    budget = budget_of(rng.uniform(0.4, 0.95), costs, rng.randint(0, 500))
    for event in range(5):
        kept = budget.select(scores(seed), event)
        most = (1 - budget.removed.share(event)) * budget.total
        left = cost(budget, kept)
        assert left <= most * (1 + 1e-9)
        for key, n in removed(kept).items():
            assert not n or left + costs[key] > most


@pytest.mark.parametrize("keep", [n / 100 for n in range(30, 100)])
def test_no_unit_is_lost_to_rounding(keep: float) -> None:
    """Of 100 units of one kind, the share that is kept stays to the unit."""
    budget = Budget("parameters", 100, {("channels", 0): 1}, schedule(1 - keep), 0.0, 1.0)
    kept = budget.select({("channels", 0): torch.rand(100)}, 4)
    assert cost(budget, kept) == round(100 * keep)


def test_large_costs_are_not_rounded_either() -> None:
    """Multiply-adds of a large model are near to 10^12."""
    unit = 10**10 + 1
    budget = Budget("multiply_adds", 100 * unit, {("channels", 0): unit}, schedule(0.3), 0.0, 1.0)
    kept = budget.select({("channels", 0): torch.rand(100)}, 4)
    assert int(kept["channels", 0].sum()) == 70


def test_a_budget_takes_units_of_little_score_for_their_cost() -> None:
    costs = {("heads", 0): 10, ("channels", 0): 1}
    found = {
        ("heads", 0): torch.tensor([5.0, 40.0, 40.0, 40.0]),
        ("channels", 0): torch.cat([torch.full((1,), 0.4), torch.full((15,), 3.0)]),
    }
    budget = Budget("parameters", 56, costs, schedule(0.2))
    # 44 may stay. The channel at 0.4 goes, then the head at 0.5 for each of its parameters, and one
    # of the channels at 3: the last one, as the earlier is kept among equals.
    kept = budget.select(found, 4)
    assert removed(kept) == {("heads", 0): 1, ("channels", 0): 2}
    assert not kept["heads", 0][0] and not kept["channels", 0][[0, -1]].any()
    assert cost(budget, kept) == 44


def test_bounds_of_a_budget() -> None:
    costs = {key: 1 for key in scores(kinds=("channels",))}
    found = {("channels", 0): torch.zeros(16), ("channels", 1): torch.ones(24)}
    budget = budget_of(0.7, costs, floor=0.125, cap=0.5)
    assert removed(budget.select(found, 4)) == {("channels", 0): 8, ("channels", 1): 4}
    # The floors alone, 2 and 3, remove less than half of the 12 that go.
    assert removed(budget.select(found, 0)) == {("channels", 0): 0, ("channels", 1): 0}


def test_impossible_budgets_say_what_is_possible() -> None:
    costs = {key: 10 for key in scores(kinds=("channels",))}
    counts = {("channels", 0): 16, ("channels", 1): 24}
    budget = budget_of(0.5, costs, 300, cap=0.75)
    message = refusal(budget.check, counts)
    # 300 and a quarter of 400 of 700.
    assert "to keep 0.5 of the parameters is impossible" in message and "0.5714 are kept" in message
    budget_of(0.572, costs, 300, cap=0.75).check(counts)


def test_kinds_of_a_budget_are_those_that_have_costs() -> None:
    assert budget_of(0.9, {("channels", 1): 1}).kinds == ("channels",)
    assert budget_of(0.9, dict.fromkeys(scores(), 1)).kinds == ("heads", "channels")
