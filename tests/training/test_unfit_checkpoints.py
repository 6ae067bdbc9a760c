"""What training goes on from, through fairseq's own trainer: stripped files, and damaged ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import refusal, rewrite
from loop import Lab, Run

from speechprune.training.launch import completed
from speechprune.training.preflight import check_settings


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("unfit"))


@pytest.fixture(scope="module")
def trained(lab: Lab) -> Run:
    return lab.train("trained", updates=2).succeeded()


def test_a_stripped_file_begins_a_run(lab: Lab, trained: Run) -> None:
    def strip(state: dict[str, Any]) -> None:
        for part in set(state) - {"cfg", "model"}:
            del state[part]

    stripped = rewrite(Path(shutil.copy(trained.path(), lab.folder / "stripped.pt")), strip)
    start = f"checkpoint.finetune_from_model={stripped}"
    begun = lab.train("begun", start, "optimization.lr=[1e-12]", updates=2).succeeded()
    head = "w2v_encoder.proj.weight"
    torch.testing.assert_close(begun.model()[head], trained.model()[head], rtol=0, atol=1e-8)


def test_moments_of_other_shapes_are_refused_in_one_line(lab: Lab, trained: Run) -> None:
    def spoil(state: dict[str, Any]) -> None:
        for moments in state["last_optimizer_state"]["state"].values():
            moments["exp_avg"] = torch.zeros(3)

    other = Path(shutil.copytree(trained.folder, lab.folder / "other"))
    last = rewrite(other / "checkpoints" / "checkpoint_last.pt", spoil)
    ended = lab.train("other", updates=4)
    assert ended.exit_code != 0
    assert f"{last.name} cannot be resumed from: its exp_avg does not fit" in ended.output
    assert "checkpoint.reset_optimizer=true" in ended.output


def test_code_in_settings_of_a_run_is_refused(lab: Lab) -> None:
    cfg = completed(lab.compose(), lab.folder)
    cfg.criterion.wer_args = "exit()"
    assert "the settings: wer_args=exit() is refused" in refusal(check_settings, cfg)
