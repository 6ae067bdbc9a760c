"""Schedules of slimming against Intel Neural Compressor's, and the traps in them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from slimming_reference import SlimmingReference

from speechprune.errors import UserError
from speechprune.slimming.schedule import SHAPES, SlimSchedule
from speechprune.slimming.selection import removed_count

OURS = {"cube": "intel_cube"}


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> SlimmingReference:
    return SlimmingReference(shared_data)


def test_shares_are_those_of_the_reference(reference: SlimmingReference) -> None:
    keys = reference.facts["schedule"]
    assert {key.split(".")[0] for key in keys} == {"exp", "linear", "cos", "cube"}
    for key, expected in keys.items():
        shape, _, target, events = key.split(".")[:4]
        # The reference never removes more than 0.98, its cap of each layer.
        schedule = SlimSchedule(
            target=min(float(f"0.{target}"), 0.98),
            begin=10,
            end=10 + 7 * int(events),
            every=7,
            shape=OURS.get(shape, shape),
            start=float(key.partition("from")[2] or 0.0),
        )
        found = [schedule.share(event) for event in range(len(schedule.events))]
        assert found == pytest.approx(expected, abs=1e-12), key


def test_cubic_is_that_of_zhu_and_gupta() -> None:
    schedule = SlimSchedule(target=0.8, begin=0, end=4, every=1, shape="cubic", start=0.1)
    for event in range(5):
        expected = 0.8 + (0.1 - 0.8) * (1 - event / 4) ** 3
        assert math.isclose(schedule.share(event), expected, abs_tol=1e-12)


@pytest.mark.parametrize("start", [0.0, 0.3])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.6, 0.9, 0.995])
@pytest.mark.parametrize("shape", SHAPES)
def test_ends_are_exact_and_nothing_returns(shape: str, target: float, start: float) -> None:
    for last in range(1, 60):
        schedule = SlimSchedule(target, 5, 5 + last, 1, shape, start)
        shares = [schedule.share(event) for event in range(last + 1)]
        assert shares[0] == start and shares[-1] == target
        assert all(after >= before - 1e-15 for before, after in zip(shares, shares[1:]))
        # The reference's exp ends at 0.4999... here, and removes one of ten too few.
        assert removed_count(10, shares[-1]) == min(9, round(10 * target))


def test_events_are_those_of_the_reference(reference: SlimmingReference) -> None:
    """At intermediate events ours may differ by one column: we round where it truncates."""
    columns = reference.facts["ffn"]
    compared = 0
    for name, seen in reference.facts["when"].items():
        begin, end, every = map(int, re.findall(r"\d+", name))
        if end - begin < every:
            with pytest.raises(UserError):
                SlimSchedule(0.75, begin, end, every, "linear")
            continue
        schedule = SlimSchedule(0.75, begin, end, every, "linear")
        steps = seen["step_pruned_zerocolumnshare"]
        assert list(schedule.events) == [step for step, pruned, _ in steps if pruned], name
        assert len(schedule.events) - 1 == seen["total_prune_cnt"]
        for step, pruned, share in steps:
            event = sum(each <= step for each in schedule.events) - 1
            assert (schedule.event_at(step) is not None) == bool(pruned)
            ours = 0 if event < 0 else removed_count(columns, schedule.share(event))
            assert abs(ours - share * columns) <= (event != len(schedule.events) - 1)
            compared += 1
    assert compared == 4 * 12


def test_numbers_of_events() -> None:
    schedule = SlimSchedule(0.5, begin=10, end=35, every=10)
    assert [schedule.event_at(update) for update in (0, 9, 10, 15, 20, 30, 35, 40)] == [
        None, None, 0, None, 1, 2, None, None,
    ]  # fmt: skip
    with pytest.raises(IndexError):
        schedule.share(3)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"end": 9}, "model.prune_end=9 comes before model.prune_begin=10; set a later end"),
        (
            {"end": 10},
            "model.prune_begin=10 to model.prune_end=10 holds no event after the beginning with "
            "model.prune_every=5; set an earlier beginning",
        ),
        ({"end": 14}, "model.prune_begin=10 to model.prune_end=14 holds no event"),
        ({"every": 0}, "model.prune_every must be 1 or more updates, not 0"),
        ({"target": 1.0}, r"target of a schedule is the share removed .* \[0, 1\), not 1.0"),
        ({"target": -0.1}, "target of a schedule"),
        ({"start": -0.5}, "start of a schedule"),
        ({"start": 0.6}, "cannot go from a share of 0.6 to 0.5; set a start"),
        ({"target": math.nan}, "target of a schedule"),
        ({"shape": "cubical"}, "unknown schedule 'cubical'; did you mean 'cubic'?"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        SlimSchedule(**{"target": 0.5, "begin": 10, "end": 15, "every": 5, **settings})
    assert "\n" not in str(refused.value)
    assert SlimSchedule(target=0.5, begin=10, end=15, every=5).events == range(10, 16, 5)
