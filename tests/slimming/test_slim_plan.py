"""SlimPlan: what stays of a model, as a value and as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import refusal

from speechprune.checksums import write_json
from speechprune.errors import UserError
from speechprune.slimming.plan import FORMAT, VERSION, KeptUnits, SlimPlan, SlimPlanFile

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


def test_a_file_holds_plan_and_provenance(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    SlimPlanFile(PLAN, {"criterion": "snip"}).save(path)
    found = SlimPlanFile.load(path)
    assert found.plan == PLAN and found.provenance == {"criterion": "snip"}
    again = tmp_path / "again.json"
    found.save(again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "cannot be used"),
        ("{}", "cannot be used"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    message = refusal(SlimPlanFile.load, path)
    assert words in message and str(path) in message


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    SlimPlanFile(PLAN).save(path)
    path.write_text(path.read_text().replace("0,2-3", "0,1-3"))
    assert str(path) in refusal(SlimPlanFile.load, path)
    missing = tmp_path / "missing.json"
    assert f"{missing} cannot be read" in refusal(SlimPlanFile.load, missing)
    newer = {"format": FORMAT, "version": VERSION + 1, "provenance": {}, "plan": DESCRIBED}
    write_json(path, newer)
    assert f"reads {FORMAT} 1, not {FORMAT} 2" in refusal(SlimPlanFile.load, path)
    write_json(path, {**newer, "version": VERSION, "plan": damaged(heads=1)})
    assert str(path) in refusal(SlimPlanFile.load, path)


def test_a_plan_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        SlimPlanFile(PLAN).save(tmp_path / "nowhere" / "plan.json")
    assert not list(tmp_path.iterdir())
