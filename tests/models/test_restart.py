"""What fairseq will load before it trains, as a model can tell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from speechprune.errors import UserError
from speechprune.models.restart import starting_checkpoint


def test_the_checkpoint_that_a_run_starts_from(tmp_path: Path) -> None:
    own, other = tmp_path / "checkpoint_last.pt", tmp_path / "other.pt"
    cfg = SimpleNamespace(
        save_dir=str(tmp_path), restore_file="checkpoint_last.pt", finetune_from_model=None
    )
    assert starting_checkpoint(cfg) is None
    other.touch()
    cfg.finetune_from_model = str(other)
    assert starting_checkpoint(cfg) == str(other)
    own.touch()
    assert starting_checkpoint(cfg) == str(own)
    cfg.restore_file = str(other)
    assert starting_checkpoint(cfg) == str(other)


def test_one_that_is_named_and_missing_is_refused(tmp_path: Path) -> None:
    """fairseq would log that there is none, and train from nothing."""
    cfg = SimpleNamespace(save_dir=str(tmp_path), restore_file="/gone.pt", finetune_from_model=None)
    with pytest.raises(UserError, match="checkpoint.restore_file: /gone.pt does not exist"):
        starting_checkpoint(cfg)
