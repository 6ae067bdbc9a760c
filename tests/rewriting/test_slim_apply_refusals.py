"""What cannot be cut, and damaged slim files, are refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import refusal, rewrite
from kinds import LAYERS, Finetuned, encoder_settings, write_pretrained
from slim_files import WIDTH, silence, with_idle_units

from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.rewriting.slimming import apply
from speechprune.slimming.plan import SLIM_PLAN


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    return Finetuned(tmp_path_factory.mktemp("finetuned"))


@pytest.fixture
def idle(tmp_path: Path) -> Path:
    """A pretrained wav2vec 2.0 with units that change nothing."""
    return with_idle_units(write_pretrained(tmp_path / "idle.pt", "base"))


@pytest.mark.parametrize("multiple_of", [1, 64])
def test_where_nothing_can_go_nothing_is_written(
    finetuned: Finetuned, tmp_path: Path, idle: Path, multiple_of: int
) -> None:
    """Or nothing after widths are rounded up."""
    path, out = finetuned("plain"), tmp_path / "slim.pt"
    if multiple_of > 1:
        path = write_pretrained(tmp_path / "whole.pt", "base")
        rewrite(path, lambda state: silence(state["model"], 0, channels=[1]))
    message = refusal(apply, path, out, multiple_of=multiple_of)
    assert f"{path} has nothing to remove" in message
    assert ("multiple of 64" in message) == (multiple_of > 1)
    assert not out.exists()


def test_the_source_is_not_overwritten(idle: Path) -> None:
    before = idle.read_bytes()
    refusal(apply, idle, idle)
    assert idle.read_bytes() == before


def _plan(state: dict[str, Any]) -> dict[str, Any]:
    return state["cfg"]["model"][SLIM_PLAN]


DAMAGES = {
    "another family": (
        lambda state: _plan(state).update(backbone="hubert"),
        "of the family hubert, but its model of wav2vec2",
    ),
    "other heads": (
        lambda state: _plan(state)["layers"][0].update(heads="0-1"),
        "keeps 16 rows of encoder.layers.0.self_attn.k_proj.weight, which has 24",
    ),
    "other channels": (
        lambda state: _plan(state)["layers"][1].update(channels="0-50"),
        "keeps 51 rows of encoder.layers.1.fc1.weight, which has 44",
    ),
    "fewer layers": (
        lambda state: _plan(state)["layers"].pop(),
        "slim plan is of 3 layers, but it has the tensors of 4",
    ),
    "thousands of layers": (
        lambda state: _plan(state).update(layers=[{"heads": "0", "channels": "0"}] * 2000),
        "slim plan is of 2000 layers",
    ),
    "heads of another model": (
        lambda state: _plan(state).update(heads=8),
        "model of 8 heads, but its settings say encoder_attention_heads=4",
    ),
    "channels of another model": (
        lambda state: _plan(state).update(channels=65),
        "model of 65 channels, but its settings say encoder_ffn_embed_dim=64",
    ),
    "no ranges": (
        lambda state: _plan(state)["layers"][0].update(heads="all"),
        "not a slim plan, or it is damaged",
    ),
    "no layers": (lambda state: _plan(state).pop("layers"), "not a slim plan, or it is damaged"),
    "text": (lambda state: state["cfg"]["model"].update({SLIM_PLAN: "0-3"}), "slim_plan"),
    "no plan": (
        lambda state: state["cfg"]["model"].pop(SLIM_PLAN),
        "encoder.layers.0.self_attn.k_proj.weight has 24 of 32 rows, but its settings hold no "
        "slim_plan",
    ),
    "a plan of whole tensors": (
        lambda state: state["model"].update(
            {"encoder.layers.0.fc1.weight": torch.zeros(WIDTH, 32)}
        ),
        "keeps 54 rows of encoder.layers.0.fc1.weight, which has 64",
    ),
    "other columns": (
        lambda state: state["model"].update(
            {"encoder.layers.0.fc2.weight": torch.zeros(32, WIDTH)}
        ),
        "fc2.weight",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_slim_files_are_refused_in_one_line(
    tmp_path: Path, idle: Path, damage: str
) -> None:
    slim, out = tmp_path / "slim.pt", tmp_path / "out.pt"
    apply(idle, slim)
    change, words = DAMAGES[damage]
    rewrite(slim, change)
    for use in (apply, lambda path, out: load_encoder(path)):
        message = refusal(use, slim, out)
        assert words in message and str(slim) in message
    assert not out.exists()


def test_a_damaged_plan_of_a_finetuned_file_is_refused(
    finetuned: Finetuned, tmp_path: Path
) -> None:
    path = with_idle_units(Path(shutil.copy(finetuned("plain"), tmp_path / "whole.pt")))
    slim = tmp_path / "slim.pt"
    apply(path, slim)
    assert SLIM_PLAN in encoder_settings(slim)
    assert len(encoder_settings(slim)[SLIM_PLAN]["layers"]) == LAYERS
    rewrite(slim, lambda state: state["cfg"]["model"]["w2v_args"]["model"].pop(SLIM_PLAN))
    message = refusal(load_finetuned, slim)
    assert "its settings hold no slim_plan that tells which heads and channels" in message
