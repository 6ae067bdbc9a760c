"""What is told about pruning before a run begins."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.optim.lr_scheduler.tri_stage_lr_scheduler import TriStageLRSchedule
from fairseq.optim.sgd import SGD as FairseqSGD
from nano import write_corpus, write_finetuned, write_wav2vec2
from omegaconf import OmegaConf

import speechprune.plugin  # noqa: F401  (registers our models)
from speechprune.errors import UserError
from speechprune.models.pruning_flags import PruningFlags
from speechprune.training.preflight import (
    check_checkpoints,
    fit_schedule,
    warn_of_denser_best,
    warn_of_unread,
)


def settings(**model: Any) -> Any:
    """The parts of a configuration that are looked at."""
    pruning = {**vars(PruningFlags()), "freeze_finetune_updates": 0, "max_update": 100}
    return OmegaConf.create(
        {
            "task": {"_name": "audio_pretraining"},
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
        ("hubert_ctc", "model.sparsity", True),
        ("transformer_ctc", "model.sparsity", False),
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


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the checkpoints of a run of PARP."""
    folder = tmp_path_factory.mktemp("begun")
    pretrained = write_wav2vec2(folder / "pretrained.pt")
    data = write_corpus(folder / "data", train=1, valid=1)
    model = {"_name": "wav2vec_ctc_parp", "sparsity": 0.5, "mask_file": "gone", "w2v_path": None}
    write_finetuned(folder / "checkpoint_last.pt", pretrained, data)
    state = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    state["cfg"]["model"] = {**state["cfg"]["model"], **vars(PruningFlags()), **model}
    torch.save(state, folder / "checkpoint_last.pt")
    return folder


def going_on(folder: Path, restore: str = "checkpoint_last.pt", **model: Any) -> Any:
    """Settings that go on with what is in ``folder``."""
    cfg = settings(w2v_path=None, **model)
    cfg.checkpoint = {
        **{"save_dir": str(folder), "restore_file": restore, "finetune_from_model": None},
        **dict.fromkeys(("reset_dataloader", "reset_lr_scheduler", "reset_meters"), False),
        "reset_optimizer": False,
    }
    return cfg


def test_a_run_does_not_go_on_as_another_model(begun: Path, tmp_path: Path) -> None:
    message = "model._name=wav2vec_ctc_parp, which cannot go on as wav2vec_ctc; name another hydra"
    with pytest.raises(UserError, match=message):
        check_checkpoints(going_on(begun, _name="wav2vec_ctc"))
    restored = going_on(tmp_path, str(begun / "checkpoint_last.pt"), _name="wav2vec_ctc")
    with pytest.raises(UserError, match=message):
        check_checkpoints(restored)
    restored.checkpoint.reset_optimizer = True
    check_checkpoints(restored)


@pytest.mark.parametrize(
    "model, warned",
    [
        ({}, None),
        ({"mask_file": "elsewhere", "init_score": "weight_rank"}, None),
        ({"sparsity": 0.8}, "model.sparsity=0.5 is now 0.8"),
        (
            {"policy": "movement", "prune_biases": False, "start_sparsity": 0.1},
            "model.policy=parp is now movement, model.prune_biases=true is now false, "
            "model.start_sparsity=null is now 0.1",
        ),
    ],
)
def test_a_run_that_goes_on_with_another_network_is_warned_of(
    begun: Path, caplog: pytest.LogCaptureFixture, model: dict[str, Any], warned: str | None
) -> None:
    with caplog.at_level(logging.WARNING):
        check_checkpoints(going_on(begun, **model))
    if warned is None:
        assert told(caplog) == ""
    else:
        assert f"goes on with another network: {warned}; checkpoint_best.pt" in told(caplog)


@pytest.mark.parametrize(
    "others, told",
    [
        ({"reset_optimizer": True}, "leave out checkpoint.reset_optimizer$"),
        (
            {"reset_meters": True, "reset_dataloader": True},
            "leave out checkpoint.reset_dataloader, checkpoint.reset_meters$",
        ),
        ({"restore_file": "other.pt"}, "leave out checkpoint.restore_file$"),
    ],
)
def test_a_run_begins_in_one_way(begun: Path, others: dict[str, Any], told: str) -> None:
    cfg = going_on(begun)
    cfg.checkpoint.finetune_from_model = str(begun / "checkpoint_last.pt")
    check_checkpoints(cfg)
    cfg.checkpoint.update(others)
    with pytest.raises(UserError, match=told):
        check_checkpoints(cfg)


def test_weights_are_not_finetuned_from_a_checkpoint_with_masks(tmp_path: Path) -> None:
    pretrained = write_wav2vec2(tmp_path / "pretrained.pt")
    data = write_corpus(tmp_path / "data", train=1, valid=1)
    masked = write_finetuned(
        tmp_path / "masked.pt", pretrained, data, model={"_name": "wav2vec_ctc_st"}
    )
    cfg = settings(_name="wav2vec_ctc", w2v_path=None)
    cfg.checkpoint = {
        **going_on(tmp_path / "new").checkpoint,
        "finetune_from_model": str(masked),
    }
    with pytest.raises(UserError, match="bake them in with `speechprune masks fold`"):
        check_checkpoints(cfg)
    cfg.model._name = "wav2vec_ctc_st"
    check_checkpoints(cfg)


def tri_stage(updates: int, ratio: list[float] | None) -> Any:
    schedule = {"_name": "tri_stage", "phase_ratio": ratio, "lr": [1.0], "max_update": updates}
    steps = dict.fromkeys(("warmup_steps", "hold_steps", "decay_steps"), 0)
    scales = {"init_lr_scale": 0.1, "final_lr_scale": 0.01}
    return OmegaConf.create(
        {"lr_scheduler": {**schedule, **steps, **scales}, "optimization": {"max_update": updates}}
    )


@pytest.mark.parametrize("ratio", [[0.1, 0.4, 0.5], [0.9, 0.05, 0.05]])
def test_the_last_stage_of_a_short_run_has_an_update(ratio: list[float]) -> None:
    """Longer ones have the stages that fairseq would give them."""
    optimizer = FairseqSGD(
        OmegaConf.create({"lr": [1.0], "momentum": 0.0, "weight_decay": 0.0}),
        [torch.nn.Parameter(torch.zeros(1))],
    )
    for updates in range(1, 30):
        cfg = tri_stage(updates, ratio)
        fit_schedule(cfg)
        schedule = TriStageLRSchedule(cfg.lr_scheduler, optimizer)
        stages = (schedule.warmup_steps, schedule.hold_steps, schedule.decay_steps)
        wanted = [int(updates * part) for part in ratio]
        assert stages == (*wanted[:2], max(1, wanted[2]))
        assert (cfg.lr_scheduler.phase_ratio is None) == (wanted[2] == 0)
