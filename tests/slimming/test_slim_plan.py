"""SlimPlan: what stays of a model, as a value and as a file."""

from __future__ import annotations

import json
from typing import Any

import pytest
from checkpoints import refusal

from speechprune.slimming.plan import KeptUnits, SlimPlan

PLAN = SlimPlan("wav2vec2", 4, 8, (KeptUnits((0, 2, 3), (0, 1, 2, 5)), KeptUnits((1,), (7,))))
DESCRIBED = {
    "backbone": "wav2vec2",
    "heads": 4,
    "channels": 8,
    "layers": [{"heads": "0,2-3", "channels": "0-2,5"}, {"heads": "1", "channels": "7"}],
}


def test_a_plan_is_described_in_ranges_and_read_again() -> None:
    assert PLAN.describe() == DESCRIBED
    assert SlimPlan.of(DESCRIBED) == PLAN
    assert SlimPlan.of(json.loads(json.dumps(DESCRIBED))) == PLAN


def test_plans_compose_by_the_numbers_of_the_first() -> None:
    later = [KeptUnits((0, 2), (1, 3)), KeptUnits.all(1, 1)]
    both = PLAN.then(later)
    assert both.kept == (KeptUnits((0, 3), (1, 5)), KeptUnits((1,), (7,)))
    assert (both.backbone, both.heads, both.channels) == ("wav2vec2", 4, 8)
    assert PLAN.then([KeptUnits.all(3, 4), KeptUnits.all(1, 1)]) == PLAN


def test_what_is_gone_cannot_be_kept_later() -> None:
    message = refusal(PLAN.then, [KeptUnits((0,), (4,)), KeptUnits.all(1, 1)])
    assert "layer 0 of the slim plan: it keeps channel 4, but there are 4 channels" in message
    assert "for 1 layers, but there are 2" in refusal(PLAN.then, [KeptUnits.all(1, 1)])


def test_layers_take_their_part_along() -> None:
    assert PLAN.of_layers([1]).kept == (KeptUnits((1,), (7,)),)
    assert PLAN.of_layers(iter([0, 1])) == PLAN
    assert "at least one layer" in refusal(PLAN.of_layers, [])


def test_a_whole_plan_removes_nothing() -> None:
    whole = SlimPlan.whole("hubert", 4, 8, 3)
    assert whole.removes_nothing and len(whole.kept) == 3
    assert not PLAN.removes_nothing


@pytest.mark.parametrize(
    ("heads", "channels", "words"),
    [
        ((), (0,), "without a head"),
        ((0,), (), "without a channel"),
        ((0, 0), (0,), "heads that a layer keeps must be named once each"),
        ((0,), (2, 1), "channels that a layer keeps must be named once each, in order"),
        ((-1,), (0,), "heads that a layer keeps"),
    ],
)
def test_a_layer_keeps_something_each_once_and_in_order(
    heads: tuple[int, ...], channels: tuple[int, ...], words: str
) -> None:
    assert words in refusal(KeptUnits, heads, channels)


def test_no_layer_keeps_what_it_never_had() -> None:
    kept = (KeptUnits.all(4, 8), KeptUnits((4,), (0,)))
    assert "layer 1 of the slim plan: it keeps head 4" in refusal(SlimPlan, "x", 4, 8, kept)


def damaged(**changes: Any) -> dict[str, Any]:
    return {**DESCRIBED, **changes}


@pytest.mark.parametrize(
    "described",
    [
        None,
        [],
        "0-3",
        {},
        damaged(heads="4"),
        damaged(heads=True),
        damaged(channels=0),
        damaged(channels=1 << 40),
        damaged(backbone=None),
        damaged(layers=None),
        damaged(layers=[]),
        damaged(layers=["0-3"]),
        damaged(layers=[{"heads": "0"}]),
        damaged(layers=[{"heads": "0", "channels": ""}]),
        damaged(layers=[{"heads": "0", "channels": 3}]),
        damaged(layers=[{"heads": "0-4", "channels": "0"}]),
        damaged(layers=[{"heads": "0", "channels": "0-999999999999"}]),
        damaged(layers=[{"heads": "1-0", "channels": "0"}]),
        damaged(layers=[{"heads": "0,0", "channels": "0"}]),
        damaged(layers=[{"heads": "0", "channels": "3,1-2"}]),
        damaged(layers=[{"heads": "0", "channels": "-1"}]),
    ],
)
def test_descriptions_that_are_none_are_refused(described: Any) -> None:
    assert "slim plan" in refusal(SlimPlan.of, described)
