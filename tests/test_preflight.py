"""What is told about pruning before a run begins."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from nano import write_corpus, write_finetuned, write_wav2vec2
from omegaconf import OmegaConf

from speechprune.errors import UserError
from speechprune.models.pruning_settings import PruningFlags
from speechprune.training.preflight import (
    check_checkpoints,
    warn_of_denser_best,
    warn_of_unread,
)


def settings(**model: Any) -> Any:
    """The parts of a configuration that are looked at."""
    pruning = {**vars(PruningFlags()), "freeze_finetune_updates": 0, "max_update": 100}
    return OmegaConf.create(
        {
            "model": {"_name": "wav2vec_ctc_parp", "w2v_args": None, **pruning, **model},
            "dataset": {"validate_after_updates": 0, "disable_validation": False},
        }
    )


def told(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.message for record in caplog.records)


@pytest.mark.parametrize(
    "model, key, warned",
    [
        ("wav2vec_ctc_parp", "model.prune_rate", True),
        ("wav2vec_ctc_parp", "model.sparsity", False),
        ("wav2vec_ctc_parp", "model.fix_attn", False),
        ("wav2vec_ctc_masked", "model.sparsity", True),
        ("wav2vec_ctc_masked", "model.mask_file", False),
        ("wav2vec_ctc_st", "model.sparsity", True),
        ("wav2vec_ctc_st", "model.prune_rate", False),
        ("wav2vec_ctc", "model.init_score", True),
        ("wav2vec_ctc", "model.dropout", False),
        ("hubert_ctc", "model.sparsity", False),
    ],
)
def test_keys_that_a_model_does_not_read(
    caplog: pytest.LogCaptureFixture, model: str, key: str, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_unread(settings(_name=model), {key, "optimization.lr"})
    assert told(caplog) == (f"{model} does not read {key}" if warned else "")


@pytest.mark.parametrize(
    "model, after, warned",
    [
        ({"start_sparsity": 0.1}, 0, True),
        ({"start_sparsity": 0.1}, 50, False),
        ({"start_sparsity": 0.1, "sparsity_end": 70}, 50, True),
        ({}, 0, False),
        ({"policy": "movement"}, 49, True),
        ({"_name": "wav2vec_ctc_st", "start_sparsity": 0.1}, 0, False),
    ],
)
def test_a_best_checkpoint_from_a_denser_time(
    caplog: pytest.LogCaptureFixture, model: dict[str, Any], after: int, warned: bool
) -> None:
    cfg = settings(**model)
    cfg.dataset.validate_after_updates = after
    with caplog.at_level(logging.WARNING):
        warn_of_denser_best(cfg)
    assert ("checkpoint_best.pt may be of a denser network" in told(caplog)) == warned


def test_weights_are_not_finetuned_from_a_checkpoint_with_masks(tmp_path: Path) -> None:
    pretrained = write_wav2vec2(tmp_path / "pretrained.pt")
    data = write_corpus(tmp_path / "data", train=1, valid=1)
    masked = write_finetuned(
        tmp_path / "masked.pt", pretrained, data, model={"_name": "wav2vec_ctc_st"}
    )
    cfg = settings(_name="wav2vec_ctc", w2v_path=None)
    cfg.checkpoint = {
        "save_dir": str(tmp_path / "new"),
        "restore_file": "checkpoint_last.pt",
        "finetune_from_model": str(masked),
    }
    with pytest.raises(UserError, match="bake them in with `speechprune masks fold`"):
        check_checkpoints(cfg)
    cfg.model._name = "wav2vec_ctc_st"
    check_checkpoints(cfg)
