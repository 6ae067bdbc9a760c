"""The benchmark of pretraining, with a tiny network on a little speech."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks import pretraining_speed as benchmark
from speechprune.recipes import mini, mini_speech

TINY = (
    *("model.encoder_layers=2", "model.encoder_embed_dim=16", "model.encoder_ffn_embed_dim=32"),
    *("model.encoder_attention_heads=2", "model.conv_pos=8", "model.conv_pos_groups=2"),
)


def test_numbers_of_a_row_go_together() -> None:
    cells = benchmark.Timed(10_201_056, audio=16.0, seconds=0.5).cells()
    assert cells == ["10,201,056", "16.0", "0.500", "32.0", "1,600", "14,400"]


def test_it_prints_a_row_for_each_model_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini_speech, "LANGUAGES", ("en", "fr"))
    monkeypatch.setattr(mini_speech, "_VALID", 1)
    monkeypatch.setattr(benchmark, "CONFIGS", {"mini": mini.CONFIG})
    monkeypatch.setitem(benchmark.OVERRIDES, "mini", {"cpu": TINY})
    words = ["--device", "cpu", "--updates", "1", "--hours", "0.01"]
    result = CliRunner().invoke(benchmark.main, words, catch_exceptions=False)
    steps = ("mini", "speaking", "cepstra", "hidden states of mini")
    rows = [line for line in result.stdout.splitlines() if line.startswith(steps)]
    assert len(rows) == len(steps)
    assert all(float(row.split()[-1].replace(",", "")) > 0 for row in rows)
