"""`speechprune slim`, and what the other commands make of its files."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checkpoints import rewrite
from click.testing import CliRunner, Result
from mask_files import Files
from slim_files import with_idle_units

from speechprune.backbones.cost import encoder_cost
from speechprune.checkpoint import read
from speechprune.checkpoint.slimming import slim_plan_in
from speechprune.models.loading import load_encoder
from speechprune.tools.main import commands


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = Files(tmp_path_factory.mktemp("slim"))
    for name, source in (("idle", files.plain), ("idle_pretrained", files.pretrained)):
        with_idle_units(Path(shutil.copy(source, files.folder / f"{name}.pt")))
    succeed("slim", "apply", files.folder / "idle.pt", files.folder / "slim.pt")
    return files


def run(*words: object) -> Result:
    return CliRunner().invoke(commands, [str(word) for word in words])


def succeed(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refuse(*words: object) -> str:
    """The one line of an error."""
    result = run(*words)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    (line,) = [line for line in result.stderr.splitlines() if "error: " in line]
    return line


def test_find_shows_what_can_go_and_what_it_costs(files: Files) -> None:
    path = files.folder / "idle.pt"
    found = json.loads(succeed("slim", "find", path, "--seconds", 1, "--json"))
    cost = encoder_cost(load_encoder(path), 1.0)
    assert (found["seconds"], found["frames"]) == (1.0, cost.frames)
    assert found["parameters"] == cost.parameters
    assert found["multiply_adds"] == cost.multiply_adds
    kinds, layers = ("heads", "channels"), found["layers"]
    assert [[layer[kind]["removable"] for kind in kinds] for layer in layers] == [[1, 10], [1, 20]]
    heads, channels = (layers[1][kind] for kind in kinds)
    assert (heads["count"], channels["count"]) == (4, 64)
    # Four projections of 32 by 32 with three biases; two of 32 by 64 with one.
    assert heads["parameters"] == 4 * 32 * 32 + 3 * 32
    assert channels["parameters"] == 2 * 32 * 64 + 64
    assert heads["multiply_adds"] == (4 * 32 * 32 + 2 * 32 * cost.frames) * cost.frames
    assert channels["multiply_adds_share"] == 2 * 32 * 64 * cost.frames / cost.multiply_adds


def test_find_draws_a_table(files: Files) -> None:
    lines = succeed("slim", "find", files.folder / "idle_pretrained.pt").splitlines()
    assert lines[0].startswith("encoder: ") and "for 10 s of audio (500 frames)" in lines[0]
    rows = [line.split() for line in lines[2:]]
    costs = ["removable", "parameters", "multiply-adds"]
    assert rows[0] == ["layer", "heads", *costs, "channels", *costs]
    assert [row[0] for row in rows[1:]] == ["0", "1", "all"]
    assert [(row[1], row[2], row[5], row[6]) for row in rows[1:]] == [
        ("4", "1", "64", "10"),
        ("4", "1", "64", "20"),
        ("8", "2", "128", "30"),
    ]


def test_apply_reports_what_is_left(files: Files) -> None:
    out = files.folder / "slim_too.pt"
    text = succeed("slim", "apply", files.folder / "idle_pretrained.pt", out)
    lines = text.splitlines()
    assert lines[0] == f"{out}:"
    assert [line.split() for line in lines[1:4]] == [
        ["layer", "heads", "channels"],
        ["0", *"3 of 4 54 of 64".split()],
        ["1", *"3 of 4 44 of 64".split()],
    ]
    left = sum(parameter.numel() for parameter in load_encoder(out).parameters())
    assert lines[4].startswith(f"{left:,} of ") and len(lines) == 5
    found = json.loads(
        succeed("slim", "apply", files.folder / "idle.pt", out, "--multiple-of", 8, "--json")
    )
    assert [layer["channels"] for layer in found["layers"]] == [56, 48]
    assert found["parameters"] < found["parameters_before"]


def test_commands_hear_the_same_in_a_slim_model(files: Files) -> None:
    recording = files.data / "audio" / "valid-0.wav"
    heard = [
        succeed("transcribe", files.folder / name, recording) for name in ("idle.pt", "slim.pt")
    ]
    assert heard[0] == heard[1]

    def rates(name: str) -> dict[str, Any]:
        words = ("--data", files.data, "--subset", "valid", "--json")
        return json.loads(succeed("evaluate", files.folder / name, *words))

    whole, slim = rates("idle.pt"), rates("slim.pt")
    assert slim["wer"] == whole["wer"] and slim["cer"] == whole["cer"]
    assert slim["parameters"] < whole["parameters"]


def test_masks_are_made_and_applied_on_a_slim_model(files: Files) -> None:
    slim, masks, masked = (files.folder / name for name in ("slim.pt", "own", "masked.pt"))
    succeed("masks", "make", slim, masks, "--by", "global-magnitude", "--sparsity", 0.5)
    succeed("masks", "apply", slim, masks, masked)
    assert slim_plan_in(read(masked)) == slim_plan_in(read(slim))
    line = refuse("masks", "fold", masked, files.folder / "folded.pt")
    assert "unmodified fairseq cannot open such layers" in line


def test_masks_of_another_shape_are_refused_by_name(files: Files) -> None:
    line = refuse("masks", "apply", files.folder / "slim.pt", files.spanish, files.folder / "x.pt")
    assert "has the shape [64, 32], not [54, 32]" in line
    assert "heads or channels were cut out of this model" in line
    assert not (files.folder / "x.pt").exists()


def as_of_a_run(state: dict[str, Any], updates: int) -> None:
    del state["speechprune"]
    state["optimizer_history"][-1]["num_updates"] = updates


def test_checkpoints_of_different_plans_are_not_averaged(files: Files) -> None:
    checkpoints = files.folder / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for number, multiple in ((1, 1), (2, 8)):
        out = checkpoints / f"checkpoint_1_{number}.pt"
        succeed("slim", "apply", files.folder / "idle.pt", out, "--multiple-of", multiple)
    line = refuse("average", files.folder / "run", "--by", "last")
    assert "no checkpoints to average" in line
    for number in (1, 2):
        rewrite(checkpoints / f"checkpoint_1_{number}.pt", partial(as_of_a_run, updates=number))
    line = refuse("average", files.folder / "run", "--by", "last")
    assert "checkpoint_1_1.pt" in line and "kept different heads or channels" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("apply", "plain.pt", "x.pt"), "plain.pt has nothing to remove"),
        (("apply", "plain.pt", "plain.pt"), "plain.pt"),
        (("apply", "missing.pt", "x.pt"), "missing.pt does not exist"),
        (("find", "missing.pt"), "missing.pt does not exist"),
        (("apply", "idle.pt", "nowhere/x.pt"), "nowhere/x.pt cannot be written"),
    ],
)
def test_mistakes_end_in_one_line(
    files: Files, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files.folder)
    before = sorted(path.name for path in files.folder.iterdir())
    assert message in refuse("slim", *words)
    assert sorted(path.name for path in files.folder.iterdir()) == before


@pytest.mark.parametrize(
    "words", [("apply", "a", "b", "--multiple-of", 0), ("find", "a", "--seconds", "nan")]
)
def test_numbers_out_of_range_are_refused(words: tuple[object, ...]) -> None:
    result = run("slim", *words)
    assert result.exit_code == 2 and "Traceback" not in result.output
