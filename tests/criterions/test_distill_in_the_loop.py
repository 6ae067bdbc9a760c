"""fairseq's own loop with a teacher: every model trains, resumes to the bit, on two ranks too."""

from __future__ import annotations

import shutil
import socket
from functools import partial
from pathlib import Path
from typing import Any

import nano
import pytest
import torch
from loop import Lab, Run, run_together
from mishaps import call_after_each_update
from nano import write_wav2vec2
from states import assert_ends_equal, difference

from speechprune.models.loading import load_pretrained
from speechprune.rewriting.encoder import export_encoder

DISTILL_CTC = ("criterion._name=distill_ctc",)
DISTILL = ("criterion._name=distill", "checkpoint.best_checkpoint_metric=loss")
NOISY = ("model.layerdrop=0.3", "model.mask_prob=0.5", "model.fix_attn=false")
QUIET = (
    *("model.apply_mask=false", "model.layerdrop=0"),
    *(f"model.{name}dropout=0" for name in ("", "attention_", "activation_")),
)
UPDATES = 4


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("distilling"))


@pytest.fixture(scope="module")
def deep(lab: Lab) -> Path:
    """A teacher of four layers, whose first two are the student's."""
    return write_wav2vec2(lab.folder / "deep.pt", layers=4)


def settings(lab: Lab, kind: str, deep: Path) -> tuple[str, ...]:
    """What sets one kind of run apart, its teacher included."""
    of_family = {
        "hubert": (f"model.w2v_path={lab.hubert}",),
        "data2vec": (f"model.w2v_path={lab.data2vec}", "task.normalize=true"),
    }
    teachers = {"hubert": lab.hubert, "data2vec": lab.data2vec, "pruned": deep}
    models = {
        "weights": ("model._name=wav2vec_ctc",),
        "st": ("model._name=wav2vec_ctc_st", "model.checkpoint_activations=true"),
        "parp": ("model._name=wav2vec_ctc_parp", "model.prune_every=1"),
        "pruned": (
            *("model._name=wav2vec_ctc_pruned", f"model.w2v_path={deep}"),
            "model.drop_layers=[1]",
        ),
        "hubert": ("model._name=wav2vec_ctc_pruned",),
        "data2vec": ("model._name=wav2vec_ctc_pruned",),
    }
    teacher = teachers.get(kind, lab.wav2vec2)
    return (f"criterion.teacher={teacher}", *models[kind], *of_family.get(kind, ()))


def projections(run: Run) -> dict[str, torch.Tensor]:
    return dict(run.checkpoint()["criterion"])


@pytest.mark.parametrize("kind", ["weights", "st", "parp", "pruned", "hubert", "data2vec"])
def test_every_model_trains_with_a_teacher(lab: Lab, deep: Path, kind: str) -> None:
    run = lab.train(kind, *DISTILL_CTC, *settings(lab, kind, deep)).succeeded()
    trained, validated = run.records("train_inner"), run.records("valid")
    for record in trained:
        assert 0 < float(record["distill_l1"]) < 2 and -1 < float(record["distill_cosine"]) < 1
    assert {"valid_distill", "valid_distill_l1", "valid_uer", "valid_wer"} <= set(validated[-1])
    state = run.checkpoint()
    assert not [key for key in state["model"] if "teacher" in key or "distill" in key]
    assert len(state["criterion"]) == 4
    assert all(key.startswith("distillation.projections.") for key in state["criterion"])
    weight = state["criterion"]["distillation.projections.others.weight"]
    assert weight.shape == (32, 32) and not torch.equal(weight, torch.eye(32))


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_gpu(lab: Lab, precision: str) -> None:
    """A student that is its teacher is as near to it as its precision allows."""
    on_gpu = ("common.cpu=false", f"common.{precision}=true", "optimization.lr=[0.0]")
    kind = ("model._name=wav2vec_ctc", f"criterion.teacher={lab.wav2vec2}", *QUIET)
    run = lab.train(precision, *DISTILL_CTC, *kind, *on_gpu).succeeded()
    for record in run.records("train_inner"):
        assert float(record["distill_l1"]) < 0.02 and float(record["distill_cosine"]) > 0.999


def test_the_student_comes_nearer_to_its_teacher(lab: Lab) -> None:
    other = write_wav2vec2(lab.folder / "other.pt", seed=5)
    kind = ("model._name=wav2vec_ctc_pruned", f"criterion.teacher={other}", *QUIET)
    fast = ("optimization.lr=[0.003]", "lr_scheduler.phase_ratio=[0.1,0.8,0.1]")
    run = lab.train("nearer", *DISTILL, *kind, *fast, updates=20).succeeded()
    losses = [float(record["loss"]) for record in run.records("train_inner")]
    assert sum(losses[-4:]) < sum(losses[:4]) - 4 * 0.3


def test_without_labels(lab: Lab, tmp_path: Path) -> None:
    """The task of pretraining has audio alone; what comes out is an encoder."""
    for file in lab.data.glob("*.tsv"):
        shutil.copy(file, tmp_path)
    task = (f"task.data={tmp_path}", "task._name=audio_pretraining", "+task.enable_padding=true")
    kind = ("model._name=wav2vec_ctc_pruned", f"criterion.teacher={lab.hubert}")
    run = lab.train("unlabelled", *DISTILL, *task, *kind).succeeded()
    assert "valid_distill_cosine" in run.records("valid")[-1]
    export_encoder(run.path(), tmp_path / "encoder.pt")
    assert len(load_pretrained(tmp_path / "encoder.pt").encoder.layers) == 2


@pytest.mark.parametrize(
    ("criterion", "precision"),
    [(DISTILL_CTC, "bf16"), (DISTILL, "fp32")],
    ids=["distill_ctc-bf16", "distill-fp32"],
)
def test_a_resumed_run_ends_as_one_that_never_stopped(
    lab: Lab, criterion: tuple[str, ...], precision: str
) -> None:
    name = f"{criterion[0].rpartition('=')[2]}-{precision}"
    options = (
        *(*criterion, *NOISY, f"criterion.teacher={lab.wav2vec2}", "optimization.update_freq=[2]"),
        *("checkpoint.save_interval_updates=2", "checkpoint.keep_interval_updates=-1"),
        f"common.bf16={str(precision == 'bf16').lower()}",
    )
    whole = lab.train(name, *options, updates=UPDATES).succeeded()
    checkpoints = lab.folder / f"{name}-resumed" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(whole.path("1_2"), checkpoints / "checkpoint_last.pt")
    resumed = lab.train(f"{name}-resumed", *options, updates=UPDATES).succeeded()
    assert resumed.records("train_inner")[0]["num_updates"] == "3"
    assert_ends_equal(resumed, whole, UPDATES)
    assert difference(projections(resumed), projections(whole)) == []
    at_start = torch.load(whole.path("1_2"), weights_only=True)["criterion"]
    assert difference(at_start, projections(whole)) != []


def save_own(path: Path, update: int) -> None:
    """Prepare a run to save what this process has of the model and the criterion."""

    def save(trainer: Any) -> None:
        if trainer.get_num_updates() == update:
            parts = (trainer.get_model(), trainer.get_criterion())
            torch.save([part.state_dict() for part in parts], path)

    call_after_each_update(save)


def two_ranks(lab: Lab, name: str, *overrides: str) -> tuple[list[Run], list[Any]]:
    """The runs of two processes, and what each has in the end."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = listening.getsockname()[1]
    group = "distributed_training."
    common = (
        f"optimization.max_update={UPDATES}",
        f"{group}distributed_world_size=2",
        f"{group}distributed_init_method=tcp://localhost:{port}",
        f"{group}distributed_no_spawn=true",
        f"{group}distributed_backend=gloo",
        f"{group}ddp_backend=legacy_ddp",
        *overrides,
    )
    config = "finetuning/base_1h"
    commands = [
        lab.arguments(name, (*common, f"{group}distributed_rank={rank}"), config)
        for rank in range(2)
    ]
    files = [lab.folder / f"{name}-{rank}.pt" for rank in range(2)]
    runs = run_together(
        lab.folder / name, commands, [partial(save_own, file, UPDATES) for file in files]
    )
    for run in runs:
        run.succeeded()
    return runs, [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize("criterion", [DISTILL_CTC, DISTILL], ids=["distill_ctc", "distill"])
def test_two_ranks_train_as_one_with_two_micro_batches(
    lab: Lab, deep: Path, criterion: tuple[str, ...]
) -> None:
    name = criterion[0].rpartition("=")[2]
    options = (*criterion, *QUIET, *settings(lab, "weights", deep))
    runs, (first, second) = two_ranks(lab, f"{name}-ranks", *options)
    assert difference(first, second) == []
    alone = lab.train(
        f"{name}-alone", *options, "optimization.update_freq=[2]", updates=UPDATES
    ).succeeded()
    for tag in ("train_inner", "valid"):
        keys = [k for k in alone.records(tag)[0] if "distill" in k or "loss" in k]
        assert len(keys) >= 4
        for one, other in zip(alone.records(tag), runs[0].records(tag)):
            for key in keys:
                assert float(one[key]) == pytest.approx(float(other[key]), rel=1e-3, abs=1e-3), key
    for key, value in projections(alone).items():
        torch.testing.assert_close(projections(runs[0])[key], value, rtol=0, atol=1e-4)


def test_a_run_begins_with_a_checkpoint_of_ctc_and_another_with_its_projections(
    lab: Lab, deep: Path
) -> None:
    weights = settings(lab, "weights", deep)
    plain = lab.train("ctc", "model._name=wav2vec_ctc").succeeded()
    start = f"checkpoint.finetune_from_model={plain.path()}"
    first = lab.train("first", *DISTILL_CTC, *weights, start).succeeded()
    # A learning rate of nothing keeps what the checkpoint gave.
    kept = (f"checkpoint.finetune_from_model={first.path()}", "optimization.lr=[0.0]")
    second = lab.train("second", *DISTILL_CTC, *weights, *kept).succeeded()
    assert difference(projections(first), projections(second)) == []


def test_a_teacher_that_does_not_fit_leaves_nothing_written(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = nano._encoder_settings
    monkeypatch.setattr(
        nano, "_encoder_settings", lambda layers: {**own(layers), "encoder_embed_dim": 64}
    )
    wide = write_wav2vec2(tmp_path / "wide.pt")
    run = lab.train("unfit", *DISTILL_CTC, f"criterion.teacher={wide}")
    assert run.exit_code == 1
    assert f"criterion.teacher={wide} has 64 channels, but the model has 32" in run.output
    assert not list(lab.folder.glob("unfit/checkpoints/*.pt"))
