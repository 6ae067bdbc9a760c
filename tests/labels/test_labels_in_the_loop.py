"""Models for labels in fairseq's loop: masks and PARP, frozen weights, resumed and distributed."""

from __future__ import annotations

import signal
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
from checkpoints import refusal
from labelled import LabelLab, write_tones
from loop import Run, run_together
from mishaps import kill_after_update
from states import assert_ends_equal, difference, keep, masks

from speechprune.models.loading import LoadedLabeller, load_finetuned, load_recogniser

ENCODER, HEAD = "w2v_encoder.w2v_model.", "w2v_encoder.proj."
UPDATES = 6
#: Everything that draws random numbers is on.
NOISY = (
    *("model.apply_mask=true", "model.mask_prob=0.5", "model.layerdrop=0.3"),
    *("task.balanced=true", "task.crop_seconds=0.25"),
)
PARP = ("model._name=wav2vec_labels_parp", "model.sparsity=0.5", "model.prune_every=2")
KINDS = {
    "router": ("model._name=wav2vec_labels_st",),
    "parp": (*PARP, "model.start_sparsity=0.2", "model.sparsity_end=4"),
    "head": ("model._name=wav2vec_labels", "model.freeze_finetune_updates=100"),
    "bf16": ("model._name=wav2vec_labels_st", "common.bf16=true"),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> LabelLab:
    return LabelLab(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def runs(lab: LabelLab) -> dict[str, Run]:
    """A run of each kind that was never interrupted."""
    quiet = ("checkpoint.save_interval_updates=0", "dataset.validate_interval_updates=0")
    return {
        kind: lab.label(kind, *NOISY, *own, *quiet, updates=UPDATES).succeeded()
        for kind, own in KINDS.items()
    }


def pretrained(lab: LabelLab) -> dict[str, torch.Tensor]:
    return torch.load(lab.wav2vec2, weights_only=True)["model"]


@pytest.mark.parametrize("kind", ["router", "head"])
def test_what_is_frozen_stays_to_the_bit(lab: LabelLab, runs: dict[str, Run], kind: str) -> None:
    model, before = runs[kind].model(), pretrained(lab)
    names = [n for n in before if ENCODER + n in model and (kind == "head" or n != "mask_emb")]
    assert len(names) > 30
    for name in names:
        assert torch.equal(model[ENCODER + name], before[name]), name
    assert model[HEAD + "layer_weights"].abs().min() > 0


def test_masks_are_exact_and_learn(runs: dict[str, Run]) -> None:
    found = masks(runs["router"].model())
    assert len(found) == 12
    for name, mask in found.items():
        assert mask.sum() == keep(mask.size, 0.9), name
    flipped = [float(record["flipped"]) for record in runs["router"].records("train_inner")]
    assert any(count > 0 for count in flipped)


def test_parp_reaches_its_sparsity(runs: dict[str, Run]) -> None:
    loaded = load_finetuned(runs["parp"].path())
    assert loaded.density == pytest.approx(0.5, abs=1e-3)
    densities = [float(record["density"]) for record in runs["parp"].records("train_inner")]
    assert densities[0] == pytest.approx(0.8, abs=1e-3)
    zeros = sum(int((v == 0).sum()) for k, v in runs["parp"].model().items() if ".fc1.w" in k)
    assert zeros > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_ends_as_if_it_had_never_been_killed(
    lab: LabelLab, runs: dict[str, Run], kind: str
) -> None:
    name, own = f"{kind}-killed", (*NOISY, *KINDS[kind], "checkpoint.save_interval_updates=3")
    killed = lab.label(name, *own, updates=UPDATES, prepare=partial(kill_after_update, 4))
    assert killed.exit_code == -signal.SIGKILL, killed.output[-3000:]
    resumed = lab.label(name, *own, updates=UPDATES).succeeded()
    assert resumed.records("train_inner")[0]["num_updates"] == "4"
    assert_ends_equal(resumed, runs[kind], UPDATES)


def test_two_processes_count_as_one_with_two_micro_batches(lab: LabelLab) -> None:
    quiet = [f"model.{name}=0" for name in ("dropout", "attention_dropout", "activation_dropout")]
    shared = (*quiet, "optimization.max_update=2", "dataset.validate_interval_updates=1")
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        address = f"tcp://localhost:{listening.getsockname()[1]}"
    common = (
        *shared,
        *("distributed_training.distributed_world_size=2", "task.balanced=true"),
        f"distributed_training.distributed_init_method={address}",
        "distributed_training.distributed_no_spawn=true",
        "distributed_training.distributed_backend=gloo",
    )
    commands = [
        lab.arguments("two", (*common, f"distributed_training.distributed_rank={rank}"))
        for rank in range(2)
    ]
    two = [run.succeeded() for run in run_together(lab.folder / "two", commands, [None, None])][0]
    one = lab.label("one", *shared, "task.balanced=true", "optimization.update_freq=[2]")
    for tag, keys in (
        ("train_inner", ("loss", "accuracy", "accuracy_pitch", "accuracy_length")),
        ("valid", ("valid_loss", "valid_accuracy", "valid_accuracy_length")),
    ):
        counted = [[[r[k] for k in keys] for r in run.records(tag)] for run in (one, two)]
        assert counted[0] == counted[1]
        assert len(counted[0]) == 2
    assert list(one.succeeded().model()) == list(two.model())


def test_what_validation_counts_is_what_evaluation_does(lab: LabelLab) -> None:
    from speechprune.decoding.labelling import evaluate_labels, read_labels

    run = lab.label("weights", "model._name=wav2vec_labels", updates=4).succeeded()
    loaded = load_finetuned(run.path())
    assert isinstance(loaded, LoadedLabeller)
    found = evaluate_labels(loaded, read_labels(loaded, lab.data, "valid"), batch_size=2)
    logged = run.records("valid")[-1]
    assert float(logged["valid_accuracy"]) == pytest.approx(100 * found.all_slots.rate, abs=1e-3)
    for slot in found.slots:
        accuracy = float(logged[f"valid_accuracy_{slot.name}"])
        assert accuracy == pytest.approx(100 * slot.accuracy.rate, abs=1e-3)
    assert run.checkpoint("best")["extra_state"]["best"] == float(logged["valid_accuracy"])


def test_a_checkpoint_needs_neither_its_data_nor_its_pretrained_model(
    lab: LabelLab, runs: dict[str, Run], tmp_path: Path
) -> None:
    state = runs["router"].checkpoint()
    state["cfg"]["task"]["data"] = state["cfg"]["model"]["w2v_path"] = "/gone"
    torch.save(state, tmp_path / "alone.pt")
    loaded = load_finetuned(tmp_path / "alone.pt")
    assert isinstance(loaded, LoadedLabeller)
    names = [(slot.name, list(slot.classes)) for slot in loaded.slots]
    assert names == [("pitch", ["high", "low", "middle"]), ("length", ["long", "short"])]
    told = refusal(load_recogniser, tmp_path / "alone.pt")
    assert "pitch, length" in told and "CTC model" in told


def test_other_classes_are_refused_by_the_loop_itself(
    lab: LabelLab, runs: dict[str, Run], tmp_path: Path
) -> None:
    data = write_tones(tmp_path / "data")
    lines = (data / "dict.lbl.txt").read_text().splitlines()
    (data / "dict.lbl.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    start = f"checkpoint.finetune_from_model={runs['router'].path()}"
    run = lab.label("other", f"task.data={data}", start, "model._name=wav2vec_labels_st")
    assert run.exit_code != 0
    assert "lists the classes of" in run.output and "in another order" in run.output
    assert not run.path().exists()


def test_masks_alone_may_come_from_other_classes(
    lab: LabelLab, runs: dict[str, Run], tmp_path: Path
) -> None:
    data = write_tones(tmp_path / "data")
    text = (data / "dict.lbl.txt").read_text()
    (data / "dict.lbl.txt").write_text(text + "length\tmedium\t0\n")
    run = lab.label(
        "taken",
        f"task.data={data}",
        f"checkpoint.finetune_from_model={runs['router'].path()}",
        "model.load_mask_only=true",
        "model.fix_mask=true",
    ).succeeded()
    both = (run, runs["router"])
    own = [{k: v for k, v in r.model().items() if k.endswith("_mask")} for r in both]
    assert own[0] and difference(own[0], own[1]) == []
    assert len(run.model()[HEAD + "output.bias"]) == 6
