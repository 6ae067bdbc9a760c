"""What a job of a sweep may go on from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Callable

import pytest
from loop import Lab

from speechprune.checksums import read_json
from speechprune.errors import UserError
from speechprune.models.restart import LAST
from speechprune.training.continuing import LIMITS, MAY_CHANGE
from speechprune.training.jobs import JOB, claim_job
from speechprune.training.overrides import key_of


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("jobs"))


@pytest.fixture
def claimed(lab: Lab, tmp_path: Path) -> Callable[[str], None]:
    """Claims a folder with a checkpoint for a job with overrides."""

    def claim(overrides: str) -> None:
        words = overrides.split()
        cfg = lab.compose(*words)
        claim_job(cfg, cfg, [key_of(word) for word in words], tmp_path)
        (tmp_path / LAST).touch()

    return claim


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("task.data=es", "task.data=de", "task.data"),
        ("checkpoint.finetune_from_model=a.pt", "", "checkpoint.finetune_from_model"),
        ("", "checkpoint.restore_file=b.pt", "checkpoint.restore_file"),
        ("", "checkpoint.best_checkpoint_metric=loss", "checkpoint.best_checkpoint_metric"),
        ("", "checkpoint.reset_optimizer=true", "checkpoint.reset_optimizer"),
        ("", "checkpoint.save_interval_updates=7", "checkpoint.save_interval_updates"),
        ("common.fp16=true", "common.fp16=false", "common.fp16"),
        ("", "common.bf16=true", "common.bf16"),
        ("", "common.memory_efficient_fp16=true", "common.memory_efficient_fp16"),
        ("", "common.fp16_init_scale=4", "common.fp16_init_scale"),
        ("common.seed=2", "common.seed=3", "common.seed"),
        (
            "+model.policy_options.init_score=normal",
            "+model.policy_options.init_score=weight_rank",
            "model.policy_options",
        ),
        ("distributed_training.distributed_world_size=2", "", "distributed_world_size"),
        ("model.dropout=0.25 model.prune_rate=0.5", "model.prune_rate=0.5", "model.dropout"),
        ("optimization.max_update=20", "optimization.max_update=10", "optimization.max_update"),
        ("optimization.max_epoch=0", "optimization.max_epoch=10", "optimization.max_epoch"),
        ("checkpoint.patience=-1", "checkpoint.patience=3", "checkpoint.patience"),
        (
            "optimization.max_epoch=9 optimization.max_update=${optimization.max_epoch}",
            "optimization.max_epoch=9 optimization.max_update=8",
            "optimization.max_update",
        ),
    ],
)
def test_what_a_result_depends_on_stays(
    claimed: Callable[[str], None], before: str, after: str, key: str
) -> None:
    """Also where a key is not given the second time."""
    claimed(before)
    with pytest.raises(UserError, match=rf"has a job of \S*{key}=.*name another hydra.sweep.dir"):
        claimed(after)
    claimed(before)


@pytest.mark.parametrize(
    "after",
    [
        "common.log_interval=7 common.cpu=false common.tensorboard_logdir=curves",
        "checkpoint.keep_interval_updates=7 dataset.num_workers=3",
        "optimization.max_update=30",
        "checkpoint.patience=4",
        "checkpoint.patience=-1",
    ],
)
def test_what_no_result_depends_on_may_change(
    claimed: Callable[[str], None], after: str, tmp_path: Path
) -> None:
    """The schedule follows its updates."""
    before = "optimization.max_update=20 checkpoint.patience=3"
    claimed(before)
    first = read_json(tmp_path / JOB)
    claimed(f"{before} {after}")
    settings = read_json(tmp_path / JOB)["settings"]
    assert [key for key in settings if settings[key] != first["settings"][key]] == [
        key_of(word) for word in after.split() if key_of(word) in LIMITS
    ]


def test_settings_count_by_what_they_come_to(
    claimed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEED_OF_THE_DAY", "1")
    claimed("common.seed=${oc.env:SEED_OF_THE_DAY}")
    claimed("common.seed=1 dataset.max_tokens_valid=${dataset.max_tokens}")
    monkeypatch.setenv("SEED_OF_THE_DAY", "2")
    with pytest.raises(UserError, match="has a job of common.seed=1, and this one is of 2"):
        claimed("common.seed=${oc.env:SEED_OF_THE_DAY}")


def test_what_is_fitted_unless_it_is_given_stays_given(
    lab: Lab, claimed: Callable[[str], None]
) -> None:
    """The config's batch is kept on any number of GPUs, one on the command line is not touched."""
    (number,) = lab.compose().optimization.update_freq
    claimed("")
    with pytest.raises(UserError, match="begun without optimization.update_freq.* begun with it"):
        claimed(f"optimization.update_freq=[{number}]")


def test_a_job_does_not_go_on_with_other_contents_of_its_files(
    lab: Lab, claimed: Callable[[str], None], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(lab.data, data)
    claimed(f"task.data={data}")
    labels = data / "train.ltr"
    before = labels.read_text()
    labels.unlink()
    claimed(f"task.data={data}")
    labels.write_text("\n".join(reversed(before.splitlines())) + "\n")
    with pytest.raises(UserError, match="something else: train of task.data changed since then"):
        claimed(f"task.data={data}")


def test_settings_that_may_change_exist(lab: Lab) -> None:
    cfg = lab.compose()
    for key in (*MAY_CHANGE, *LIMITS):
        group, _, name = key.partition(".")
        assert name in cfg[group], key
