"""What `speechprune compare` leaves out: folders without a finished run, each with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.reports.runs import read_run
from speechprune.reports.unfinished import UnfinishedRun
from speechprune.tools.main import commands

SETTINGS = json.dumps({"config": "demo/nano", "overrides": ["optimization.max_update=9", "a=b=c"]})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("unfinished")
    pretrained = write_wav2vec2(folder / "pretrained.pt")
    data = write_corpus(folder / "data", train=2, valid=2)
    return torch.load(write_finetuned(folder / "model.pt", pretrained, data), weights_only=True)


def write_run(
    folder: Path, checkpoint: dict[str, Any], done: int, planned: int, **ends: float
) -> Path:
    """A run of ``done`` updates, to be trained for ``planned``; ``ends`` are other limits."""
    cfg = {
        **checkpoint["cfg"],
        "dataset": {"train_subset": "train"},
        "optimization": {"max_update": planned, **ends},
    }
    history = [{**checkpoint["optimizer_history"][-1], "num_updates": done}]
    state = {**checkpoint, "cfg": cfg, "optimizer_history": history}
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(state, folder / "checkpoints" / "checkpoint_last.pt")
    return folder


def compare(*folders: Path) -> Any:
    words = ["compare", *map(str, folders), "--subset", "valid"]
    return CliRunner().invoke(commands, words)


def test_unfinished_folders_are_left_out_with_a_reason(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    finished = write_run(tmp_path / "finished", checkpoint, 9, 9)
    folders = {
        "interrupted": "unfinished: 3 of 9 updates",
        "failed": "unfinished: 0 of 9 updates are saved",
        "mask-only": "it holds no run: no checkpoints/checkpoint_last.pt",
        "pooled.json": "no folder",
    }
    write_run(tmp_path / "interrupted", checkpoint, 3, 9)
    for name in ("failed", "mask-only"):
        (tmp_path / name).mkdir()
    (tmp_path / "failed" / "overrides.json").write_text(SETTINGS)
    (tmp_path / "pooled.json").write_text("[]")
    result = compare(finished, *(tmp_path / name for name in folders))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].startswith("dense control")
    expected = [f"warning: {tmp_path / name} is left out: {why}" for name, why in folders.items()]
    assert result.stderr.splitlines() == expected
    result = compare(*(tmp_path / name for name in folders))
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert all(f"{tmp_path / name} ({why})" in result.stderr for name, why in folders.items())


def test_a_run_may_end_before_its_last_update(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    """By another limit; of a recipe's run a file says whether it ended."""
    run = write_run(tmp_path / "run", checkpoint, 3, 9, stop_time_hours=0.5)
    assert read_run(run).final_updates == 3
    (run / "overrides.json").write_text(SETTINGS)
    with pytest.raises(UnfinishedRun, match="3 of 9 updates"):
        read_run(run)
    (run / "done.json").write_text("{}")
    assert read_run(run).final_updates == 3


def test_a_best_checkpoint_does_not_tell_the_end(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", checkpoint, 9, 9)
    with pytest.raises(UnfinishedRun, match="no checkpoints/checkpoint_best.pt"):
        read_run(run, "best")
    best = write_run(tmp_path / "other", checkpoint, 3, 9) / "checkpoints" / "checkpoint_last.pt"
    best.rename(run / "checkpoints" / "checkpoint_best.pt")
    assert read_run(run, "best").final_updates == 9
