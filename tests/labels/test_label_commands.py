"""The commands on models for labels: each does what it says, or refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from checkpoints import refusal
from click.testing import CliRunner
from labelled import LabelLab, write_tones

from speechprune.decoding.files import transcribe_files
from speechprune.decoding.labelling import classify, evaluate_labels, read_labels
from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.models.loading import LoadedLabeller, load_encoder, load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.reports.comparison import compare
from speechprune.rewriting.averaging import average
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.folding import fold
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.rewriting.masks import apply_masks
from speechprune.rewriting.slimming import apply as slim_apply
from speechprune.tools.evaluate import command as evaluate_command

PARP = ("model._name=wav2vec_labels_parp", "model.sparsity=0.5", "model.prune_every=1")
KEPT = ("checkpoint.save_interval_updates=1", "checkpoint.keep_interval_updates=-1")
WEIGHTS = "layer_weights"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> LabelLab:
    return LabelLab(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="module")
def router(lab: LabelLab) -> Path:
    own = ("model.prune_rate=0.6", "dataset.validate_interval_updates=1", *KEPT)
    return lab.label("router", *own, updates=3).succeeded().path()


@pytest.fixture(scope="module")
def parp(lab: LabelLab) -> Path:
    return lab.label("parp", *PARP).succeeded().path()


def loaded(path: Path) -> LoadedLabeller:
    found = load_finetuned(path)
    assert isinstance(found, LoadedLabeller)
    return found


def scores(path: Path) -> torch.Tensor:
    """What a model makes of two padded utterances."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(2, 6000, generator=generator)
    padding = torch.zeros(2, 6000, dtype=torch.bool)
    padding[1, 4000:] = True
    with torch.inference_mode():
        return loaded(path).model(source=source, padding_mask=padding)["logits"]


def test_scores_that_are_not_numbers_are_refused(router: Path) -> None:
    """The best of them would be the first class, whatever is heard."""
    labeller, audio = loaded(router), [np.zeros(16000, dtype=np.float32)]
    classify(labeller, audio)
    with torch.no_grad():
        labeller.model.w2v_encoder.proj.output.bias[-1] = torch.nan
    with pytest.raises(UserError, match="its scores are not numbers"):
        classify(labeller, audio)


def head_of(path: Path) -> torch.Tensor:
    (found,) = [v for k, v in torch.load(path)["model"].items() if k.endswith(WEIGHTS)]
    return found


@pytest.mark.parametrize("kind", ["router", "parp"])
def test_a_folded_model_has_equal_scores_and_its_classes(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    path, out = request.getfixturevalue(kind), tmp_path / "folded.pt"
    assert fold(path, out) == "wav2vec_labels"
    assert torch.equal(scores(out), scores(path))
    assert loaded(out).slots == loaded(path).slots
    assert loaded(out).density == pytest.approx(loaded(path).density)
    assert "no masks to fold" in refusal(fold, out, tmp_path / "again.pt")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folded.pt"]


def test_masks_go_to_another_model(lab: LabelLab, router: Path, parp: Path, tmp_path: Path) -> None:
    masks = read_mask_set(router)
    folded = tmp_path / "folded.pt"
    fold(parp, folded)
    apply_masks(folded, masks, tmp_path / "applied.pt")
    found = loaded(tmp_path / "applied.pt")
    assert found.density == pytest.approx(masks.density)
    applied = found.model.mask_controller.mask_set()
    assert all(torch.equal(applied[name], mask) for name, mask in masks.items())
    told = refusal(apply_masks, folded, read_mask_set(parp), tmp_path / "biases.pt")
    assert "biases" in told and not (tmp_path / "biases.pt").exists()


def test_masks_of_a_ctc_head_are_refused(router: Path, tmp_path: Path) -> None:
    masks = read_mask_set(router)
    odd = MaskSet({**masks, "proj.weight": torch.ones(5, 32, dtype=torch.bool)}, {})
    assert "proj.weight" in refusal(apply_masks, router, odd, tmp_path / "odd.pt")


def test_the_mean_of_a_runs_checkpoints(lab: LabelLab, router: Path, tmp_path: Path) -> None:
    average(lab.folder / "router", tmp_path / "mean.pt")
    paths = sorted((lab.folder / "router" / "checkpoints").glob("checkpoint_*_*.pt"))
    mean = torch.stack([head_of(path) for path in paths]).double().mean(0)
    assert len(paths) == 3
    torch.testing.assert_close(head_of(tmp_path / "mean.pt").double(), mean)
    assert loaded(tmp_path / "mean.pt").density == pytest.approx(0.6, abs=1e-3)


def test_checkpoints_of_other_classes_have_no_mean(
    lab: LabelLab, router: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(router.parent.glob("checkpoint_*_[23].pt"))):
        state = torch.load(path)
        if number:
            state["task_state"]["slots"][1][1].reverse()
        torch.save(state, folder / path.name)
    assert "other classes" in refusal(average, tmp_path / "run", by="last")


def test_a_dropped_layer_takes_its_states_weight_along(router: Path, tmp_path: Path) -> None:
    drop_layers(router, [0], tmp_path / "small.pt")
    assert torch.equal(head_of(tmp_path / "small.pt"), head_of(router)[[0, 2]])
    assert scores(tmp_path / "small.pt").isfinite().all()


def test_the_encoder_is_exported_and_units_cut(router: Path, parp: Path, tmp_path: Path) -> None:
    export_encoder(router, tmp_path / "encoder.pt")
    own = load_encoder(tmp_path / "encoder.pt")
    assert len(own.encoder.layers) == 2
    state = torch.load(parp)
    layer = "w2v_encoder.w2v_model.encoder.layers.0."
    for name in ("fc1.weight", "fc1.bias"):
        state["model"][layer + name][:8] = 0
    cut = {k: v for k, v in state["model"].items() if not k.endswith(("_mask", "_regrown"))}
    state["cfg"]["model"]["_name"] = "wav2vec_labels"
    torch.save({**state, "model": cut}, tmp_path / "zeros.pt")
    slim_apply(tmp_path / "zeros.pt", tmp_path / "slim.pt")
    assert loaded(tmp_path / "slim.pt").model.backbone.encoder.layers[0].fc1.out_features <= 56
    torch.testing.assert_close(
        scores(tmp_path / "slim.pt"), scores(tmp_path / "zeros.pt"), rtol=1e-4, atol=1e-5
    )


def test_compare_tells_that_it_reads_error_rates(lab: LabelLab, router: Path) -> None:
    told = refusal(compare, [lab.folder / "router"], subset="valid", data=None, which="last")
    assert "evaluate" in told and "labels" in told


def test_transcribe_tells_the_classes(lab: LabelLab, router: Path) -> None:
    file = lab.data / "audio" / "valid-0.wav"
    (found,) = transcribe_files(loaded(router), [file])
    pitch, length = found.text.split("\t")
    assert pitch in ("high", "low", "middle") and length in ("long", "short")


def run_evaluate(*arguments: object) -> Any:
    return CliRunner().invoke(evaluate_command, [str(a) for a in arguments])


def test_evaluate_prints_what_its_json_says(lab: LabelLab, router: Path, tmp_path: Path) -> None:
    shared = (router, "--data", lab.data, "--subset", "valid")
    found = json.loads(run_evaluate(*shared, "--json").output)
    assert found["utterances"] == 6 and [s["slot"] for s in found["slots"]] == ["pitch", "length"]
    for slot in found["slots"]:
        confusion = torch.tensor(slot["confusion"])
        assert confusion.sum() == 6 and confusion.trace() == slot["correct"]
        assert slot["interval"][0] < slot["accuracy"] + 1e-9 <= slot["interval"][1] + 1e-9
    text = run_evaluate(*shared, "--figure", tmp_path / "confusion.png").output
    rate = f"{100 * found['accuracy']:.2f} %  ({found['correct']} of 6"
    assert rate in text and "95 % confidence interval" in text and "density     0.6" in text
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["confusion-length.png", "confusion-pitch.png"]


def test_an_utterance_without_a_frame_counts_as_wrong(
    lab: LabelLab, router: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import soundfile

    data = write_tones(tmp_path / "data")
    soundfile.write(data / "audio" / "valid-0.wav", [0.1] * 50, 16000)
    lines = (data / "valid.tsv").read_text().splitlines()
    (data / "valid.tsv").write_text("\n".join([lines[0], "valid-0.wav\t50", *lines[2:]]) + "\n")
    found = evaluate_labels(loaded(router), read_labels(loaded(router), data, "valid"))
    assert found.all_slots.utterances == 6
    assert [slot.unheard.sum() for slot in found.slots] == [1, 1]
    assert "too short" in caplog.text


def other_class(data: Path) -> None:
    (data / "valid.lbl").write_text("low\tmedium\n" * 6)


def one_slot(data: Path) -> None:
    (data / "dict.lbl.txt").write_text("pitch\thigh\t1\npitch\tlow\t1\npitch\tmiddle\t1\n")


def swapped(data: Path) -> None:
    lines = (data / "dict.lbl.txt").read_text().splitlines()
    (data / "dict.lbl.txt").write_text("\n".join(lines[3:] + lines[:3]) + "\n")


@pytest.mark.parametrize(
    "spoil, told",
    [(other_class, "unknown class 'medium'"), (one_slot, "lists pitch"), (swapped, "its order")],
)
def test_data_of_other_labels_are_refused(
    router: Path, tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    data = write_tones(tmp_path / "data")
    spoil(data)
    assert told in refusal(read_labels, loaded(router), data, "valid")


def damage(state: dict[str, Any], how: str) -> None:
    slots = state["task_state"]["slots"]
    if how == "missing":
        del state["task_state"]["slots"]
    elif how == "fewer":
        slots.pop()
    elif how == "twice":
        slots[0][1][0] = slots[0][1][1]
    elif how == "type":
        slots[0] = 7
    elif how == "task":
        state["cfg"]["task"]["_name"] = "audio_finetuning"


@pytest.mark.parametrize("how", ["missing", "fewer", "twice", "type", "task"])
def test_damaged_slots_are_refused(router: Path, tmp_path: Path, how: str) -> None:
    state = torch.load(router)
    damage(state, how)
    torch.save(state, tmp_path / "damaged.pt")
    assert "damaged.pt is damaged" in refusal(load_finetuned, tmp_path / "damaged.pt")
