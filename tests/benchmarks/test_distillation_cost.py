"""The steps that are measured learn from the teacher, and leave it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.distillation import DistillingTrainer, main, write_teacher
from benchmarks.recognisers import SMALL_ENCODER
from benchmarks.train_step import Task


@pytest.mark.parametrize("halved", [False, True])
def test_a_step_learns_from_the_teacher(tmp_path: Path, halved: bool) -> None:
    file = write_teacher(tmp_path / "teacher.pt", SMALL_ENCODER)
    settings = {**SMALL_ENCODER, "halved": halved, "teacher": file}
    trainer = DistillingTrainer("student", Task("cpu", "fp32", 1, settings))
    student = trainer.model
    assert len(student.layers) == (3 if halved else 6)
    assert student.states == ((0, 1, 2, 3) if halved else (0, 2, 4, 6))
    assert trainer.step().total > 0
    for linear in (student.projections.first, student.projections.others):
        assert not torch.equal(linear.weight, torch.eye(32))
    assert student.teacher is not None and student.teacher.states == (0, 2, 4, 6)
    encoder = student.teacher.encoder.state_dict()
    saved = torch.load(file, weights_only=True)["model"]
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in saved.items())


def test_the_table_has_a_row_with_and_without_a_teacher(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--quick", "--seconds", "1", "--steps", "1", "--threads", "1"]
    ran = CliRunner().invoke(main, [*options, "--save", str(tmp_path / "table.txt")])
    assert ran.exit_code == 0, ran.output
    rows = [line.split() for line in ran.output.splitlines()[2:6]]
    assert [row[0] for row in rows] == ["6", "6", "3", "3"]
    assert ["the" in row for row in rows] == [False, True, False, True]
    assert (tmp_path / "table.txt").read_text() == ran.output
