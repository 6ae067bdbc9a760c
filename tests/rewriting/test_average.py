"""`speechprune average`: an exact mean, of the right checkpoints, told as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from averages import WEIGHT, Runs, assert_is_the_mean, in_half_precision, names, run_command
from checkpoints import logits, refusal
from nano import rewrite_as_of_2020
from parp_by_hand import prunable, saved_masks

from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.rewriting.averaging import average
from speechprune.rewriting.folding import fold
from speechprune.rewriting.masks import apply_masks


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("average"))


@pytest.mark.parametrize("kind", ["plain", "masked", "parp", "pretrained", "data2vec"])
def test_weights_are_the_mean(runs: Runs, tmp_path: Path, kind: str) -> None:
    source = getattr(runs, kind)
    paths = [runs.save(tmp_path, f"checkpoint_1_{n}.pt", n, source=source) for n in (2, 10, 7)]
    found = average(tmp_path, by="last")
    assert found.out == tmp_path / "checkpoints" / "checkpoint_average.pt"
    assert_is_the_mean(found.out, paths)


def test_stored_types_are_kept(runs: Runs, tmp_path: Path) -> None:
    paths = [
        runs.save(tmp_path, f"checkpoint_1_{n}.pt", n, change=in_half_precision) for n in (1, 2, 3)
    ]
    assert_is_the_mean(average(tmp_path, by="last").out, paths)


def test_small_values_are_not_lost_in_the_sum(runs: Runs, tmp_path: Path) -> None:
    """In float32, and in float16 the more, the sum of these has no place for the small ones."""
    values = [2.0**24, 1.0, 1.0, -(2.0**24)]
    for updates, value in enumerate(values, start=1):

        def put(state: dict[str, Any], value: float = value) -> None:
            state["model"][WEIGHT] = torch.full_like(state["model"][WEIGHT], value)

        runs.save(tmp_path, f"checkpoint_1_{updates}.pt", updates, change=put)
    mean = torch.load(average(tmp_path, by="last").out, weights_only=True)["model"][WEIGHT]
    assert (mean == 0.5).all()


def test_the_rest_is_that_of_the_newest(runs: Runs, tmp_path: Path) -> None:
    runs.save(tmp_path, "checkpoint_1_1.pt", 1, 3.0, seed=1)

    def provenance(state: dict[str, Any]) -> None:
        state["speechprune"] = {"masks": {"from": "spanish"}, "version": "old"}

    newest = runs.save(tmp_path, "checkpoint_1_2.pt", 2, 4.0, seed=2, change=provenance)
    found = torch.load(average(tmp_path, by="last").out, weights_only=True)
    expected = torch.load(newest, weights_only=True)
    expected["cfg"]["common"]["user_dir"] = None  # no file names code to load
    for key in ("args", "cfg", "task_state", "optimizer_history", "criterion"):
        assert found.pop(key) == expected.pop(key)
    assert found.pop("last_optimizer_state") is None
    # The validation value of the newest is not the average's.
    place = {"epoch": 1, "iterations_in_epoch": 0}
    assert found.pop("extra_state") == {"train_iterator": place, "val_loss": None}
    assert found.pop("model").keys() == expected["model"].keys()
    told = found.pop("speechprune")
    assert found == {}
    assert told["masks"] == {"from": "spanish"} and told["version"] != "old"
    assert told["averaged_by"] == "last"
    assert told["averaged"] == [
        {"file": "checkpoint_1_2.pt", "updates": 2, "valid": None},
        {"file": "checkpoint_1_1.pt", "updates": 1, "valid": 3.0},
    ]


def test_the_newest_is_not_always_the_best(runs: Runs, tmp_path: Path) -> None:
    for updates, value in {1: 3.0, 2: 4.0, 3: 5.0}.items():
        runs.save(tmp_path, f"checkpoint_1_{updates}.pt", updates, value)
    found = average(tmp_path, num=2)
    assert [checkpoint.updates for checkpoint in found.averaged] == [1, 2]
    state = torch.load(found.out, weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 2


@pytest.mark.parametrize("kind", ["plain", "masked", "parp"])
def test_a_single_checkpoint_stays_the_network_that_it_was(
    runs: Runs, tmp_path: Path, kind: str
) -> None:
    path = runs.save(tmp_path, "checkpoint_last.pt", 5, source=getattr(runs, kind))
    found = average(tmp_path, tmp_path / "one.pt", by="last")
    before, after = load_finetuned(path), load_finetuned(found.out)
    assert torch.equal(logits(before.model), logits(after.model))
    assert after.density == before.density == (1.0 if kind == "plain" else 0.5)


def test_what_is_pruned_stays_pruned_and_nothing_regrown_is_left(
    runs: Runs, tmp_path: Path
) -> None:
    for updates in (1, 2, 3):
        path = runs.save(tmp_path, f"checkpoint_1_{updates}.pt", updates, source=runs.parp)
    assert any(key.endswith("_regrown") for key in torch.load(path, weights_only=True)["model"])
    found = average(tmp_path, by="last")
    mean = torch.load(found.out, weights_only=True)["model"]
    assert not any(key.endswith("_regrown") for key in mean)
    masks = saved_masks(mean)
    assert sum(int((~mask).sum()) for mask in masks.values()) > 0
    assert all(torch.equal(mean[name] != 0, mask) for name, mask in masks.items())
    loaded = load_finetuned(found.out)
    assert loaded.density == load_finetuned(path).density
    fold(found.out, tmp_path / "folded.pt")
    folded = load_finetuned(tmp_path / "folded.pt").model
    assert torch.equal(logits(folded), logits(loaded.model))
    assert len(read_mask_set(found.out)) == len(prunable())


def test_the_best_by_validation(runs: Runs, tmp_path: Path) -> None:
    """The later first among equals; values that are not numbers are none."""
    values = {1: 9.0, 2: 3.0, 3: float("nan"), 4: 3.0, 5: None, 6: 4.0, 10: float("inf")}
    for updates, value in values.items():
        runs.save(tmp_path, f"{updates}.pt", updates, value)
    assert names(tmp_path) == ["4.pt", "2.pt", "6.pt", "1.pt"]
    assert names(tmp_path, num=2) == ["4.pt", "2.pt"]
    found = average(tmp_path, num=1)
    assert_is_the_mean(found.out, [tmp_path / "checkpoints" / "4.pt"])
    assert found.unvalidated == 3


def test_the_largest_value_where_large_is_good(runs: Runs, tmp_path: Path) -> None:
    for updates, value in {1: 9.0, 2: 3.0, 3: 11.0, 4: 9.0}.items():
        measure = {"maximize_best_checkpoint_metric": True, "best_checkpoint_metric": "accuracy"}
        runs.save(tmp_path, f"{updates}.pt", updates, value, **measure)
    assert names(tmp_path) == ["3.pt", "4.pt", "1.pt", "2.pt"]


def test_the_last(runs: Runs, tmp_path: Path) -> None:
    """By updates, not by name."""
    for updates, value in {9: 1.0, 100: None, 20: 3.0}.items():
        runs.save(tmp_path, f"checkpoint_1_{updates}.pt", updates, value)
    expected = [f"checkpoint_1_{updates}.pt" for updates in (100, 20, 9)]
    assert names(tmp_path, by="last") == expected
    found = average(tmp_path, by="last", num=2)
    assert [c.path.name for c in found.averaged] == expected[:2]
    assert_is_the_mean(found.out, [tmp_path / "checkpoints" / name for name in expected[:2]])


def test_files_of_one_update_count_once(runs: Runs, tmp_path: Path) -> None:
    for name in ("last", "1_50", "best", "best_wer_2.0001"):
        runs.save(tmp_path, f"checkpoint_{name}.pt", 50, 2.0)
    # One that was not validated must not hide the one that was.
    runs.save(tmp_path, "checkpoint1.pt", 40)
    runs.save(tmp_path, "checkpoint_1_40.pt", 40, 3.0)
    for by in ("valid", "last"):
        found = average(tmp_path, by=by)
        assert [c.path.name for c in found.averaged] == ["checkpoint_1_50.pt", "checkpoint_1_40.pt"]
        assert [c.valid for c in found.averaged] == [2.0, 3.0] and found.unvalidated == 0


def test_what_was_made_of_checkpoints_is_none_of_the_run(runs: Runs, tmp_path: Path) -> None:
    """An average or a folded model in the folder; nor has another's value who got its masks."""
    path = runs.save(tmp_path, "checkpoint_1_1.pt", 1, 2.0, source=runs.masked)
    folder = path.parent
    first = average(tmp_path).out.read_bytes()
    average(tmp_path, folder / "a.pt")
    fold(path, folder / "folded.pt")
    for by in ("valid", "last"):
        assert names(tmp_path, by=by) == ["checkpoint_1_1.pt"]
    average(tmp_path)
    assert (folder / "checkpoint_average.pt").read_bytes() == first
    apply_masks(path, read_mask_set(path), folder / "applied.pt")
    path.unlink()
    assert "average --by last" in refusal(average, tmp_path)
    assert names(tmp_path, by="last") == ["applied.pt"]


def test_checkpoints_of_2020_tell_what_is_good_too(runs: Runs, tmp_path: Path) -> None:
    for updates, value in {1: 2.0, 2: 5.0, 3: 4.0}.items():
        path = runs.save(
            tmp_path, f"{updates}.pt", updates, value, maximize_best_checkpoint_metric=True
        )
        rewrite_as_of_2020(path)
    assert names(tmp_path, num=2) == ["2.pt", "3.pt"]
    out = tmp_path / "checkpoints" / "checkpoint_average.pt"
    assert_is_the_mean(out, [tmp_path / "checkpoints" / f"{n}.pt" for n in (2, 3)])
    load_finetuned(out)


def test_lines_and_json_say_the_same(runs: Runs, tmp_path: Path) -> None:
    for updates, value in {1: 9.5, 20: 3.25, 300: None}.items():
        runs.save(tmp_path, f"checkpoint_1_{updates}.pt", updates, value)
    out = tmp_path / "mean.pt"
    result = run_command(tmp_path, out)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "checkpoint_1_20.pt       20 updates  validation 3.25",
        "checkpoint_1_1.pt         1 updates  validation 9.5",
        f"{out}: the mean of 2 checkpoints",
        "note: 10 were asked for, and 2 found with a validation value; 1 without one left out "
        "(--by last)",
    ]
    found = json.loads(run_command(tmp_path, out, "--json", "--num", 1).stdout)
    first = {"file": "checkpoint_1_20.pt", "updates": 20, "valid": 3.25}
    shared = {
        "run": str(tmp_path),
        "out": str(out),
        "masks_chosen_anew": False,
        "of_other_density": 0,
    }
    assert found == {**shared, "by": "valid", "asked": 1, "averaged": [first], "unvalidated": 1}
    lines = run_command(tmp_path, out, "--by", "last", "--num", 4).stdout.splitlines()
    assert lines[0] == "checkpoint_1_300.pt      300 updates  not validated"
    assert lines[3:] == [
        f"{out}: the mean of 3 checkpoints",
        "note: 4 were asked for, and 3 found",
    ]
    lines = run_command(tmp_path, "--by", "last", "--num", 1).stdout.splitlines()
    out = tmp_path / "checkpoints" / "checkpoint_average.pt"
    assert lines[1:] == [f"{out}: the mean of 1 checkpoint"]
