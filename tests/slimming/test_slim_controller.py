"""SlimController, update by update, beside slimming by hand of the same three layers under Adam."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from slim_by_hand import HandPlan
from slim_training import (
    PLAN,
    SHAPE,
    UPDATES,
    Training,
    assert_follows,
    kept_of,
    slimmed,
    step,
)

from speechprune.slimming.criteria import CRITERIA


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
