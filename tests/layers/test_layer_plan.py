"""LayerPlan: what can be dropped, and the files that say so."""

from __future__ import annotations

import errno
import json
import os
from itertools import chain
from pathlib import Path
from typing import Any, Optional

import pytest

from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan, LayerPlans, read_plans


def refused(message: str, text: Any, layers: int = 12) -> None:
    """Reading ``text`` for a model of ``layers`` layers is refused in one line."""
    with pytest.raises(UserError, match=message) as refusal:
        read_plans(str(text), layers)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def plans() -> LayerPlans:
    found = (
        LayerPlan(12, (2, 6, 8), 0.1 + 0.2),
        LayerPlan(12, (4,), -1e-300),
        LayerPlan(12, tuple(range(11))),
    )
    return LayerPlans(found, 12, {"matrix": "cca ∅", "settings": {"beam": 10}})


@pytest.mark.parametrize(
    "dropped, kept, runs",
    [
        ((0,), (1, 2, 3, 4, 5), [(0, 1)]),
        ((5,), (0, 1, 2, 3, 4), [(5, 6)]),
        ((0, 1, 2), (3, 4, 5), [(0, 3)]),
        ((0, 2, 4), (1, 3, 5), [(0, 1), (2, 3), (4, 5)]),
        ((1, 2, 4, 5), (0, 3), [(1, 3), (4, 6)]),
        ((0, 1, 2, 3, 5), (4,), [(0, 4), (5, 6)]),
        ((1, 2, 3, 4, 5), (0,), [(1, 6)]),
    ],
)
def test_runs_and_what_stays(
    dropped: tuple[int, ...], kept: tuple[int, ...], runs: list[tuple[int, int]]
) -> None:
    plan = LayerPlan(6, dropped)
    assert (plan.dropped, plan.kept, list(plan.runs)) == (dropped, kept, runs)
    assert tuple(chain(*(range(*run) for run in plan.runs))) == dropped
    assert sorted(plan.kept + plan.dropped) == list(range(6))


def test_the_order_of_naming_layers_does_not_matter() -> None:
    plan = LayerPlan(12, (7, 3, 5))
    assert plan == LayerPlan(12, (3, 5, 7)) and plan.dropped == (3, 5, 7)
    assert hash(plan) == hash(LayerPlan(12, (5, 7, 3)))
    assert plan != LayerPlan(13, (3, 5, 7))


@pytest.mark.parametrize(
    "layers, dropped, message",
    [
        (12, (), "at least one layer to drop"),
        (12, (3, 3), r"each layer once, not \[3, 3\]"),
        (12, (3, 5, 3), r"each layer once, not \[3, 3, 5\]"),
        (12, (12,), r"layer 12 of .* 0\.\.11"),
        (12, (3, 99), r"layer 99 of .* 0\.\.11"),
        (12, (-1,), r"layer -1 of .* 0\.\.11"),
        (12, (-1, 4), r"layer -1 of .* 0\.\.11"),
        (12, tuple(range(12)), "drops all 12 layers"),
        (1, (0,), "drops all 1 layers"),
    ],
)
def test_what_is_no_plan_is_refused(layers: int, dropped: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        LayerPlan(layers, dropped)
    assert "\n" not in str(refusal.value)


def test_a_plan_cannot_be_changed() -> None:
    plan = LayerPlan(12, (3,))
    with pytest.raises(AttributeError):
        plan.dropped = (4,)


def test_a_file_gives_back_plans_scores_and_provenance(plans: LayerPlans, tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    plans.save(path)
    for loaded in (LayerPlans.load(path, 12), LayerPlans.load(str(path), 12)):
        assert loaded == plans
        assert [plan.score for plan in loaded.plans] == [0.1 + 0.2, -1e-300, None]
    assert read_plans(str(path), 12) == plans
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["plans"][0] == {"drop": [2, 6, 8], "score": 0.1 + 0.2}
    assert written["layers"] == 12 and written["provenance"]["matrix"] == "cca ∅"


def test_equal_plans_are_equal_files(plans: LayerPlans, tmp_path: Path) -> None:
    for name in ("first", "second"):
        plans.save(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize(
    "content, expected",
    [
        ([3, 5, 7], [(3, 5, 7)]),
        ([7, 3], [(3, 7)]),
        ([0], [(0,)]),
        ([[3, 5, 7]], [(3, 5, 7)]),
        ([[3, 5, 7], [1], [2, 4]], [(3, 5, 7), (1,), (2, 4)]),
        ({"drop": [3, 5, 7]}, [(3, 5, 7)]),
        ({"drop": [3, 5, 7], "score": 0.5}, [(3, 5, 7)]),
        ([{"drop": [1]}, {"drop": [2], "score": None}], [(1,), (2,)]),
        ([{"drop": [1]}, [2]], [(1,), (2,)]),
        ({"plans": [{"drop": [1]}, {"drop": [2]}]}, [(1,), (2,)]),
        ({"plans": [[1], [2]], "layers": None}, [(1,), (2,)]),
    ],
)
def test_bare_rows(content: Any, expected: list[tuple[int, ...]], tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    for loaded in (LayerPlans.load(path, 12), read_plans(str(path), 12)):
        assert [plan.dropped for plan in loaded.plans] == expected
        assert all(plan.layers == 12 for plan in loaded.plans)
        assert loaded.layers == 12 and loaded.provenance == {}


def test_a_rows_score_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    path.write_text('[{"drop": [1], "score": 0.25}, {"drop": [2], "score": 1}]')
    assert [plan.score for plan in LayerPlans.load(path, 12).plans] == [0.25, 1.0]


@pytest.mark.parametrize(
    "text, dropped",
    [("3,5,7", (3, 5, 7)), ("7", (7,)), (" 3, 5 ", (3, 5)), ("11,0", (0, 11)), ("03", (3,))],
)
def test_layers_on_a_command_line(text: str, dropped: tuple[int, ...]) -> None:
    assert read_plans(text, 12) == LayerPlans((LayerPlan(12, dropped),), 12)


def test_many_layers_on_a_command_line() -> None:
    """More characters than a file's name can have."""
    dropped = tuple(range(0, 200, 2))
    (plan,) = read_plans(",".join(map(str, dropped)), 200).plans
    assert plan.dropped == dropped


def test_a_file_with_a_number_for_a_name_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3,5").write_text("[[1], [2]]")
    assert [plan.dropped for plan in read_plans("3,5", 12).plans] == [(1,), (2,)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("12", "layer 12 of"),
        ("3,99", "layer 99 of"),
        ("3,5,3", "each layer once"),
        ("0,1,2,3,4,5,6,7,8,9,10,11", "drops all 12"),
        ("3,,5", "3,,5 cannot be read"),
        ("3,-1", "3,-1 cannot be read"),
        ("3.5", "3.5 cannot be read"),
        ("three", "three cannot be read"),
    ],
)
def test_impossible_layers_on_a_command_line(text: str, message: str) -> None:
    refused(message, text)


BAD_CONTENTS = {
    "another model": ({"layers": 24, "plans": [{"drop": [3]}]}, "24 layers, not of 12"),
    "a layer too many": ([[3, 12]], r"layer 12 of .* 0\.\.11"),
    "a layer too many in a later row": ([[3], [99]], r"layer 99 of .* 0\.\.11"),
    "negative": ([[-1]], "layer -1 of"),
    "duplicate": ([[3, 3]], "each layer once"),
    "all": ([list(range(12))], "drops all 12"),
    "no layer": ([[]], "at least one layer to drop"),
    "no layers in a row": ({"drop": []}, "at least one layer to drop"),
    "no plan": ([], "holds no layer plan"),
    "no plans": ({"plans": []}, "holds no layer plan"),
    "empty object": ({}, "not a file of layer plans"),
    "other object": ({"layers": 12}, "not a file of layer plans"),
    "null": (None, "not a file of layer plans"),
    "number": (3, "not a file of layer plans"),
    "text": ("3,5,7", "not a file of layer plans"),
    "true": (True, "not a file of layer plans"),
    "layers as texts": ([["3", "5"]], "not a file of layer plans"),
    "layers as fractions": ([[3.0, 5.5]], "not a file of layer plans"),
    "layers as truth": ([[True, 5]], "not a file of layer plans"),
    "truth": ([True, 5], "not a file of layer plans"),
    "a list too deep": ([[[3]]], "not a file of layer plans"),
    "one list too deep": ([3, [5]], "not a file of layer plans"),
    "one list not deep enough": ([[3], 5], "not a file of layer plans"),
    "no list": ({"drop": 3}, "not a file of layer plans"),
    "no list but an object": ({"drop": {"3": 1}}, "not a file of layer plans"),
    "no list but null": ({"drop": None}, "not a file of layer plans"),
    "score": ({"drop": [3], "score": "good"}, "not a file of layer plans"),
    "scores": ({"drop": [3], "score": [0.5]}, "not a file of layer plans"),
    "plans": ({"plans": 3}, "not a file of layer plans"),
}


@pytest.mark.parametrize("kind", BAD_CONTENTS)
def test_files_that_hold_something_else_are_refused(kind: str, tmp_path: Path) -> None:
    content, message = BAD_CONTENTS[kind]
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    refused(rf"{path}.*{message}", path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[[3, 5]",
        b"layers 3 and 5\nand 7\n",
        b"\xff\xfe\x00\x93NUMPY\n",
        b"\x80\x04\x95",
        b"[" * 100_000,
    ],
    ids=["empty", "brace", "cut", "lines", "bytes", "pickle", "brackets"],
)
def test_files_that_are_not_json_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    path.write_bytes(data)
    refused(rf"{path}.*not JSON", path)


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    refused(rf"{tmp_path}/nowhere.json cannot be read: No such file", tmp_path / "nowhere.json")
    refused(rf"{tmp_path} cannot be read: Is a directory", tmp_path)


@pytest.mark.parametrize("change", [{"version": 2}, {"format": "speechprune.mask_set"}])
def test_a_file_of_another_version_or_kind_is_refused(
    change: dict[str, Any], plans: LayerPlans, tmp_path: Path
) -> None:
    path = tmp_path / "plans.json"
    plans.save(path)
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**written, **change}), encoding="utf-8")
    refused(str(path), path)


@pytest.mark.parametrize("layers", [11, 13, 3, 1])
def test_plans_of_a_model_of_another_depth_are_refused(
    layers: int, plans: LayerPlans, tmp_path: Path
) -> None:
    path = tmp_path / "plans.json"
    plans.save(path)
    refused(f"{path} has plans for a model of 12 layers, not of {layers}", path, layers)


@pytest.mark.parametrize("layers", [None, 12])
def test_a_file_need_not_tell_the_depth(layers: Optional[int], tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    LayerPlans((LayerPlan(12, (3, 5)),), layers).save(path)
    assert LayerPlans.load(path, 12).plans == (LayerPlan(12, (3, 5)),)


def test_a_full_disk_leaves_the_old_file_whole(
    plans: LayerPlans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plans.json"
    plans.save(path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        LayerPlans((LayerPlan(12, (1,)),), 12).save(path)
    assert LayerPlans.load(path, 12) == plans
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_is_missing_is_told(plans: LayerPlans, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        plans.save(tmp_path / "nowhere" / "plans.json")


def test_a_plan_after_a_plan() -> None:
    both = LayerPlan(6, (1, 4)).then(LayerPlan(4, (0, 2), 0.5))
    assert both == LayerPlan(6, (0, 1, 3, 4))  # 0, 2, 3, 5 were left
    with pytest.raises(UserError, match="a plan for 6 layers, but 4 are left"):
        LayerPlan(6, (1, 4)).then(LayerPlan(6, (0,)))
