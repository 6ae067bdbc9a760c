"""Nothing of a run stays in its process: the next run of a sweep is as if it were alone."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq import checkpoint_utils
from fairseq.logging import metrics, progress_bar

from speechprune.training.leftovers import leaving_nothing


class Writer:
    """What fairseq uses of TensorBoard's writer, with the values by file."""

    written: dict[str, list[float]] = {}

    def __init__(self, folder: str) -> None:
        self.values = Writer.written.setdefault(folder, [])
        self.is_closed = False

    def add_text(self, tag: str, text: str) -> None: ...

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert not self.is_closed
        self.values.append(value)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True


class Wandb:
    """Weights & Biases, of which only one run can be open."""

    def __init__(self) -> None:
        self.run: Any = None
        self.runs: list[str] = []

    def init(self, project: str, reinit: bool, name: str) -> None:
        if self.run is None:
            self.runs.append(name)
            self.run = name

    def log(self, values: dict[str, float], step: int) -> None: ...

    def finish(self) -> None:
        self.run = None

    def teardown(self) -> None:
        assert self.run is None
        self.runs.append("begun anew")


@pytest.fixture
def loop() -> SimpleNamespace:
    """The functions of fairseq's loop that keep state."""
    return SimpleNamespace(should_stop_early=lambda cfg, loss: False)


def run(folder: Path, name: str, value: float) -> None:
    """Log as fairseq's loop does."""
    bar = progress_bar.progress_bar(
        [],
        log_format="none",
        log_file=str(folder / f"{name}.log"),
        tensorboard_logdir=str(folder / name),
        wandb_project="project",
        wandb_run_name=name,
    )
    bar.log({"loss": value, "num_updates": 1}, tag="train")
    metrics.log_scalar("loss", value)
    logging.getLogger("fairseq.logging.progress_bar").warning(name)


def test_curves_and_logs_of_two_runs_are_apart(
    tmp_path: Path, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Wandb()
    monkeypatch.setattr(progress_bar, "wandb", wandb)
    monkeypatch.setattr(progress_bar, "SummaryWriter", Writer)
    monkeypatch.setattr(Writer, "written", {})
    for name, value in (("first", 1.0), ("second", 2.0)):
        with leaving_nothing(loop):
            assert not hasattr(checkpoint_utils.save_checkpoint, "best")
            run(tmp_path, name, value)
            assert metrics.get_smoothed_value("default", "loss") == value
            checkpoint_utils.save_checkpoint.best = value
            loop.should_stop_early.best = value
    assert Writer.written == {
        str(tmp_path / "first/train"): [1.0],
        str(tmp_path / "second/train"): [2.0],
    }
    assert wandb.runs == ["first", "begun anew", "second", "begun anew"] and wandb.run is None
    assert (tmp_path / "first.log").read_text() == "first\n"
    assert (tmp_path / "second.log").read_text() == "second\n"
    assert not hasattr(loop.should_stop_early, "best")


def test_a_run_that_fails_leaves_nothing_either(loop: Any) -> None:
    root = logging.getLogger()
    level = root.level
    with pytest.raises(RuntimeError), leaving_nothing(loop):
        checkpoint_utils.save_checkpoint.best = 1.0
        root.setLevel(level + 1)
        raise RuntimeError
    assert not hasattr(checkpoint_utils.save_checkpoint, "best")
    assert root.level == level


def test_the_callers_own_run_of_wandb_stays_open(
    loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Wandb()
    wandb.init("project", False, "the caller's")
    monkeypatch.setattr(progress_bar, "wandb", wandb)
    with leaving_nothing(loop):
        pass
    assert wandb.run == "the caller's" and "begun anew" not in wandb.runs
