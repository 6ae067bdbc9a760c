"""Paths of settings: they belong to where the command was typed, and they exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from speechprune.errors import UserError
from speechprune.training.paths import PATHS, WRITTEN, anchor_paths, check_paths, number_curves


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are typed; the run has a folder of its own."""
    typed, run = tmp_path / "typed", tmp_path / "run"
    (typed / "data").mkdir(parents=True)
    run.mkdir()
    for file in (typed / "model.pt", typed / "both.pt", run / "both.pt", run / "in_run.pt"):
        file.touch()
    monkeypatch.chdir(run)
    return typed


def settings(**values: Any) -> DictConfig:
    """Groups with the defaults that are looked at, and ``group__key=value``."""
    cfg = OmegaConf.create(
        {
            "checkpoint": {"save_dir": "checkpoints", "restore_file": "checkpoint_last.pt"},
            **{group: {} for group in ("common", "criterion", "model", "task")},
        }
    )
    for key, value in values.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    return cfg


@pytest.mark.parametrize("key", PATHS)
def test_relative_paths_lie_where_they_are_typed(here: Path, key: str) -> None:
    cfg = settings(**{key: "both.pt"})
    anchor_paths(cfg, here)
    assert OmegaConf.select(cfg, key) == str(here / "both.pt")
    anchor_paths(cfg, here.parent)
    assert OmegaConf.select(cfg, key) == str(here / "both.pt")


def test_paths_with_interpolations_and_those_of_the_home_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    cfg = settings(
        task__labels="data",
        task__data="${task.labels}",
        model__data="${task.data}",
        model__w2v_path="~/model.pt",
        common__aim_repo="aim://host:1",
    )
    anchor_paths(cfg, here)
    assert cfg.task.data == cfg.model.data == str(here / "data")
    assert cfg.model.w2v_path == "/home/someone/model.pt"
    assert cfg.common.aim_repo == "aim://host:1"


def test_what_fairseq_also_looks_for_elsewhere_stays(here: Path) -> None:
    cfg = settings(checkpoint__restore_file="in_run.pt", common__user_dir="examples/data2vec")
    anchor_paths(cfg, here)
    assert cfg.checkpoint.restore_file == "in_run.pt"
    assert cfg.common.user_dir == "examples/data2vec"
    missing = settings(checkpoint__restore_file="gone.pt")
    anchor_paths(missing, here)
    assert missing.checkpoint.restore_file == str(here / "gone.pt")
    (here / "checkpoint_last.pt").touch()
    default = settings()
    anchor_paths(default, here)
    assert default.checkpoint.restore_file == "checkpoint_last.pt"
    check_paths(default)


@pytest.mark.parametrize("key", [key for key in PATHS if key not in WRITTEN])
def test_every_path_that_is_read_has_to_be_there(here: Path, key: str) -> None:
    is_folder = key in ("common.user_dir", "task.data", "task.label_dir", "task.target_dictionary")
    right, wrong = ("data", "model.pt") if is_folder else ("model.pt", "data")
    check_paths(settings(**{key: str(here / right)}))
    for name in (wrong, "gone"):
        with pytest.raises(UserError, match=rf"{key}: .*{here / name}"):
            check_paths(settings(**{key: str(here / name)}))


def test_a_run_that_goes_on_does_not_need_what_it_began_with(here: Path) -> None:
    gone = {"checkpoint.finetune_from_model": "/gone.pt", "model.mask_file": "/gone.masks"}
    with pytest.raises(UserError, match="/gone.pt does not exist"):
        check_paths(settings(**gone))
    Path("checkpoints").mkdir()
    Path("checkpoints", "checkpoint_last.pt").touch()
    check_paths(settings(**gone))
    with pytest.raises(UserError, match="w2v_path: /gone.pt does not exist"):
        check_paths(settings(**gone, model__w2v_path="/gone.pt"))
    check_paths(settings(model__w2v_path="/gone.pt", model__w2v_args={"a": 1}))


@pytest.mark.parametrize(
    ("folder", "told"),
    [("tb", "tb/3"), ("tb/${common.seed}", "tb/${common.seed}"), (None, None)],
)
def test_jobs_of_a_sweep_draw_curves_apart(folder: str | None, told: str | None) -> None:
    cfg = settings(common__tensorboard_logdir=folder, common__seed=1)
    number_curves(cfg, 3)
    assert OmegaConf.to_container(cfg)["common"]["tensorboard_logdir"] == told


@pytest.mark.parametrize("key", [*PATHS, "checkpoint.save_dir", "common.log_file"])
def test_an_empty_path_is_refused_by_name(here: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"{key} is empty; name a path, or leave it out"):
        check_paths(settings(**{key: ""}))


@pytest.mark.parametrize(
    ("key", "path", "told"),
    [
        ("checkpoint.save_dir", "both.pt/x", "cannot be made a folder: .*both.pt is a file"),
        ("common.tensorboard_logdir", "both.pt", "cannot be made a folder: .*both.pt is a file"),
        ("common.log_file", "gone/x.log", "log_file=gone/x.log: there is no folder .*/run/gone"),
    ],
)
def test_a_place_that_cannot_be_written_to(here: Path, key: str, path: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_paths(settings(**{key: path}))
