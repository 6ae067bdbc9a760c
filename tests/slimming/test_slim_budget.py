"""Budgets are met from below, against a loop that follows the words and a search of all choices."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from speechprune.errors import UserError
from speechprune.slimming.budget import Group, select_within, smallest_budget


def draw_groups(drawn: random.Random) -> list[Group]:
    """Heads and channels of up to two layers, ties included, with floors and caps."""
    groups = []
    for layer in range(drawn.randint(1, 2)):
        for kind, cost in (("heads", drawn.randint(3, 9)), ("channels", drawn.randint(1, 3))):
            values = [
                drawn.choice([0.0, 1.0, 2.0, drawn.random()]) for _ in range(drawn.randint(1, 4))
            ]
            floor = drawn.choice([0.0, 0.0, 0.25, 0.5])
            cap = drawn.choice([0.5, 0.75, 0.98, 1.0])
            scores = torch.tensor(values, dtype=torch.float64)
            groups.append(Group(kind, layer, scores, cost, floor, cap))
    return groups


def sizes(group: Group) -> tuple[int, int]:
    """The smallest and the largest number of units that may stay."""
    units = len(group.scores)
    return max(1, units - round(group.cap * units)), units - math.floor(group.floor * units)


def cost(groups: list[Group], masks: list[list[int]]) -> int:
    return sum(group.cost * sum(mask) for group, mask in zip(groups, masks))


def by_hand(groups: list[Group], budget: int) -> list[list[int]]:
    """Remove up from the smallest score / cost, then put back down from the largest."""
    masks = [[1] * len(group.scores) for group in groups]
    places = [(g, u) for g, group in enumerate(groups) for u in range(len(group.scores))]

    def worth(place: tuple[int, int]) -> tuple[float, int, int]:
        group, unit = place
        return groups[group].scores[unit].item() / groups[group].cost, -group, -unit

    upwards = sorted(places, key=worth)
    for g, u in upwards:
        if sum(masks[g]) > sizes(groups[g])[1]:
            masks[g][u] = 0
    removed = []
    for g, u in upwards:
        if cost(groups, masks) <= budget:
            break
        if masks[g][u] and sum(masks[g]) > sizes(groups[g])[0]:
            masks[g][u] = 0
            removed.append((g, u))
    for g, u in reversed(removed):
        masks[g][u] = 1
        if cost(groups, masks) > budget:
            masks[g][u] = 0
    return masks


def found(groups: list[Group], budget: int) -> list[list[int]]:
    return [mask.int().tolist() for mask in select_within(groups, budget)]


def test_random_groups_against_a_plain_loop() -> None:
    drawn = random.Random(5)
    put_back = 0
    for _ in range(300):
        groups = draw_groups(drawn)
        smallest, largest = smallest_budget(groups), sum(g.cost * len(g.scores) for g in groups)
        budget = drawn.randint(smallest, largest)
        masks = found(groups, budget)
        assert masks == by_hand(groups, budget)
        assert cost(groups, masks) <= budget
        for group, mask in zip(groups, masks):
            fewest, most = sizes(group)
            assert fewest <= sum(mask) <= most
            if sum(mask) < most:
                # Any unit put back would be one too many.
                assert cost(groups, masks) + group.cost > budget
        put_back += cost(groups, masks) == budget
    assert put_back > 30


def test_the_smallest_budget_is_that_of_all_choices() -> None:
    drawn = random.Random(6)
    for _ in range(60):
        groups = draw_groups(drawn)
        allowed = [
            [
                mask
                for mask in itertools.product((0, 1), repeat=len(group.scores))
                if sizes(group)[0] <= sum(mask) <= sizes(group)[1]
            ]
            for group in groups
        ]
        smallest = sum(min(group.cost * sum(m) for m in ms) for group, ms in zip(groups, allowed))
        assert smallest_budget(groups) == smallest
        assert cost(groups, found(groups, smallest)) == smallest
        with pytest.raises(UserError, match=f"smallest possible one is {smallest};") as refused:
            select_within(groups, smallest - 1)
        assert "\n" not in str(refused.value)


def test_no_choice_within_the_budget_is_better_where_costs_are_equal() -> None:
    """With one cost, the ranking keeps the largest sum of scores: seen among all choices."""
    drawn = random.Random(7)
    for _ in range(30):
        groups = [
            Group(kind, 0, torch.tensor([drawn.random() for _ in range(4)]), 3)
            for kind in ("heads", "channels")
        ]
        budget = drawn.randint(6, 24)
        scores = torch.cat([group.scores for group in groups]).tolist()
        best = max(
            sum(itertools.compress(scores, mask))
            for mask in itertools.product((0, 1), repeat=8)
            if 3 * sum(mask) <= budget and any(mask[:4]) and any(mask[4:])
        )
        masks = found(groups, budget)
        assert math.isclose(sum(itertools.compress(scores, masks[0] + masks[1])), best)


def test_units_are_ranked_by_score_for_their_cost() -> None:
    heads = Group("heads", 0, torch.tensor([8.0, 9.0]), 10)
    channels = Group("channels", 0, torch.tensor([1.0, 2.0, 3.0]), 1)
    # A head is worth 0.8 or 0.9, less than each channel, though its score is larger.
    assert found([heads, channels], 13) == [[0, 1], [1, 1, 1]]
    # Without its head there is room for more than the smallest channel that had to go.
    assert found([heads, channels], 12) == [[0, 1], [0, 1, 1]]
    assert found([heads, channels], 22) == [[0, 1], [1, 1, 1]]
    assert found([heads, channels], 23) == [[1, 1], [1, 1, 1]]


def test_what_still_fits_is_put_back() -> None:
    """The large unit goes last and leaves room for two small ones that went before it."""
    large = Group("heads", 0, torch.tensor([60.0, 50.0]), 10)
    small = Group("channels", 0, torch.tensor([9.0, 2.0, 3.0, 1.0]), 1)
    assert found([large, small], 13) == [[1, 0], [1, 1, 1, 0]]


def test_ties_go_to_the_earlier_group_and_the_lower_index() -> None:
    groups = [Group("heads", layer, torch.full((3,), 2.0), 2) for layer in range(2)]
    assert found(groups, 8) == [[1, 1, 1], [1, 0, 0]]
    assert found([*groups, Group("channels", 0, torch.full((2,), 1.0), 1)], 12) == [
        [1, 1, 1], [1, 1, 0], [1, 1],
    ]  # fmt: skip


def test_half_precision_costs_beyond_float32_and_no_groups() -> None:
    scores = torch.rand(50, generator=torch.Generator().manual_seed(3)).half()
    unit = 2**40 + 1
    half = select_within([Group("heads", 0, scores, unit)], 20 * unit)[0]
    assert half.equal(select_within([Group("heads", 0, scores.double(), unit)], 20 * unit)[0])
    assert int(half.sum()) == 20
    assert int(select_within([Group("heads", 0, scores, unit)], 20 * unit - 1)[0].sum()) == 19
    assert select_within([], 0) == []


def test_not_a_number_and_bounds_are_refused() -> None:
    scores = torch.tensor([1.0, math.nan, 0.0])
    for budget in (1, 2, 3, 9):
        with pytest.raises(FloatingPointError, match="NaN"):
            select_within([Group("heads", 0, scores, 1, cap=1.0)], budget)
    with pytest.raises(UserError, match="floor of each layer"):
        Group("heads", 0, scores, 1, floor=1.0)
    with pytest.raises(UserError, match="cap of each layer"):
        Group("heads", 0, scores, 1, floor=0.5, cap=0.4)
    with pytest.raises(ValueError, match="heads of layer 3 cost 0"):
        Group("heads", 3, scores, 0)
