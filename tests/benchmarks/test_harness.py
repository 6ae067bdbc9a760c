"""What benchmarks share: rows as they come, and devices and precisions that exist."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from benchmarks.harness import (
    Report,
    device_option,
    on_device,
    precision_option,
    training_overrides,
)
from speechprune.decoding.inference import best_device


@click.command()
@precision_option
@device_option
def chosen(device: str, precision: str) -> None:
    click.echo(f"{device} {precision} {best_device().type}")


def test_a_row_is_printed_when_it_is_added(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = Report()
    rows = report.table(["what", "time"], (6, 7))
    assert capsys.readouterr().out == "what       time\n"
    rows.add("a step", "12 ms")
    assert capsys.readouterr().out == "a step    12 ms\n"
    report.tell()
    report.save(tmp_path / "kept.txt")
    assert (tmp_path / "kept.txt").read_text() == "what       time\na step    12 ms\n\n"


@pytest.mark.parametrize(
    ("has_gpu", "words", "told"),
    [
        (False, "", "cpu fp32 cpu"),
        (False, "--precision bf16", "cpu bf16 cpu"),
        (False, "--precision fp16", "--precision fp16 needs a GPU"),
        (False, "--device cuda", "there is no GPU for --device cuda"),
        (True, "--precision fp16", "cuda fp16 cuda"),
        (True, "--device cpu --precision fp16", "--precision fp16 needs a GPU"),
        (True, "--precision bf16 --device cpu", "cpu bf16 cuda"),
    ],
)
def test_devices_and_precisions_fit(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, words: str, told: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    result = CliRunner().invoke(chosen, words.split())
    assert told in result.output
    assert (result.exit_code == 0) == (told.count(" ") == 2)


def test_the_library_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with on_device("cpu"):
        assert best_device().type == "cpu"
    with on_device("cuda"):
        assert best_device().type == "cuda"
    assert training_overrides("cuda", "bf16") == (
        "common.cpu=false",
        "common.fp16=false",
        "common.bf16=true",
    )
