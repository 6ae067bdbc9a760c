"""Heads and channels cut out of checkpoint files: what is left, and that outputs stay equal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import MASKS, logits, refusal, rewrite
from kinds import FINETUNED, PRETRAINED, Finetuned, write_pretrained
from nano import write_finetuned
from slim_files import HEADS, WIDTH, deafen, silence, with_idle_units
from torch import Tensor

from speechprune.backbones import find_backbone
from speechprune.checkpoint import digest, read
from speechprune.checkpoint.layers import depth
from speechprune.checkpoint.slimming import slim_plan_in
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.rewriting.conversion import convert
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.folding import fold
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.rewriting.masks import apply_masks
from speechprune.rewriting.plain_checkpoint import read_plain
from speechprune.rewriting.rewriting import Rewriting
from speechprune.rewriting.slimming import CutReport, apply, write_slim
from speechprune.slimming.plan import KeptUnits, SlimPlan

CHANNELS = tuple(range(WIDTH))
#: What `with_idle_units` leaves of models of four layers.
KEPT = (
    KeptUnits((0, 2, 3), CHANNELS[10:]),
    KeptUnits((0, 1, 3), CHANNELS[:30] + CHANNELS[50:]),
    KeptUnits.all(HEADS, WIDTH),
    KeptUnits.all(HEADS, WIDTH),
)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    return Finetuned(tmp_path_factory.mktemp("finetuned"))


@pytest.fixture
def idle(tmp_path: Path) -> Path:
    """A pretrained wav2vec 2.0 with units that change nothing."""
    return with_idle_units(write_pretrained(tmp_path / "idle.pt", "base"))


def features(path: Path) -> list[Tensor]:
    """Of a second of noise, and of one beside half of one."""
    encoder = load_encoder(path)
    family = find_backbone(encoder)
    source = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(source.shape, dtype=torch.bool)
    padding[1, 8000:] = True
    with torch.inference_mode():
        alone, _ = family.features(encoder, source, None)
        padded, frames = family.features(encoder, source, padding)
    assert frames is not None
    return [alone, padded[~frames]]


def assert_equal_outputs(slim: Path, source: Path) -> None:
    for found, expected in zip(features(slim), features(source)):
        assert expected.std() > 0.01
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def counts(report: CutReport) -> list[tuple[int, int]]:
    return [(layer.heads, layer.channels) for layer in report.layers]


# --- what is left --------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "layout"), PRETRAINED)
def test_pretrained_models_lose_what_changes_nothing(
    tmp_path: Path, family: str, layout: str
) -> None:
    path = write_pretrained(tmp_path / "whole.pt", family, layout)
    if layout == "2020":
        rewrite(path, _add_idle_units, _use_new_zipfile_serialization=False)
    else:
        with_idle_units(path)
    out = tmp_path / "slim.pt"
    report = apply(path, out)
    assert counts(report) == [(3, 54), (3, 44), (4, 64), (4, 64)]
    plan = slim_plan_in(read(out))
    name = {"data2vec": "data2vec_audio", "hubert": "hubert"}.get(family, "wav2vec2")
    assert plan == SlimPlan(name, HEADS, WIDTH, KEPT)
    assert_equal_outputs(out, path)
    encoder = load_encoder(out)
    assert report.parameters == sum(p.numel() for p in encoder.parameters())
    assert report.parameters_before == sum(p.numel() for p in load_encoder(path).parameters())
    assert find_backbone(encoder).slim_plan(encoder) == plan


def _add_idle_units(state: dict[str, Any]) -> None:
    silence(state["model"], 0, heads=[1], channels=range(10))
    deafen(state["model"], 1, heads=[2], channels=range(30, 50))


@pytest.mark.parametrize("kind", FINETUNED)
def test_finetuned_models_lose_what_changes_nothing(
    finetuned: Finetuned, tmp_path: Path, kind: str
) -> None:
    path = Path(shutil.copytree(finetuned(kind).parent, tmp_path / "whole")) / "finetuned.pt"
    options = {"_use_new_zipfile_serialization": False} if kind.endswith("2020") else {}
    rewrite(path, _add_idle_units, **options)
    out = tmp_path / "slim.pt"
    report = apply(path, out)
    assert [layer[0] for layer in counts(report)][:2] == [3, 3]
    assert counts(report)[0][1] <= 54 and counts(report)[1][1] <= 44
    whole, slim = load_finetuned(path), load_finetuned(out)
    torch.testing.assert_close(logits(slim.model), logits(whole.model), rtol=0, atol=1e-5)
    assert slim.dictionary.symbols == whole.dictionary.symbols
    assert not hasattr(slim.model, "mask_controller")
    assert slim.cfg.model._name == ("wav2vec_ctc_pruned" if kind == "pruned" else "wav2vec_ctc")
    assert_equal_outputs(out, path)
    assert slim.provenance["slimmed_from"] == digest(path)
    assert slim.provenance["slimmed_by"] == {"multiple_of": 1}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_tensors_keep_their_type_and_others_their_values(
    tmp_path: Path, idle: Path, kind: torch.dtype
) -> None:
    def convert_all(state: dict[str, Any]) -> None:
        state["model"] = {key: tensor.to(kind) for key, tensor in state["model"].items()}

    rewrite(idle, convert_all)
    out = tmp_path / "slim.pt"
    apply(idle, out)
    before, after = read(idle)["model"], read(out)["model"]
    assert set(after) == set(before)  # pretraining's own too
    assert {tensor.dtype for tensor in after.values()} == {kind}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    attention = ("q_proj", "k_proj", "v_proj", "out_proj")
    cut = [f"self_attn.{name}.weight" for name in attention] + ["fc1.weight", "fc2.weight"]
    biases = [f"self_attn.{name}.bias" for name in attention[:3]] + ["fc1.bias"]
    assert changed == {
        *(f"encoder.layers.{layer}.{name}" for layer in (0, 1) for name in cut + biases),
        # Of what layer 1 had the same for each frame.
        *("encoder.layers.1.self_attn.out_proj.bias", "encoder.layers.1.fc2.bias"),
    }


def test_masks_that_empty_rows_and_columns_are_slimmed(
    finetuned: Finetuned, tmp_path: Path
) -> None:
    """What masks removed inside of units that stay is zero, and counted in the density."""
    path, out = tmp_path / "masked.pt", tmp_path / "slim.pt"
    masks = read_checkpoint_masks(finetuned("st"))
    found = dict(masks)
    found["encoder.layers.2.fc2.weight"][:, :20] = False
    found["encoder.layers.3.fc1.weight"][5] = False
    found["encoder.layers.0.self_attn.v_proj.weight"][16:24] = False
    apply_masks(finetuned("st"), type(masks)(found, {}), path)
    report = apply(path, out)
    assert counts(report) == [(3, 64), (4, 64), (4, 44), (4, 63)]
    whole, slim = load_finetuned(path), load_finetuned(out)
    torch.testing.assert_close(logits(slim.model), logits(whole.model), rtol=0, atol=1e-5)
    left = found["encoder.layers.2.fc2.weight"][:, 20:]
    kept = slim.provenance["kept"]
    assert kept["encoder.layers.2.fc2.weight"] == [int(left.sum()), left.numel()]
    weight = load_encoder(out).encoder.layers[2].fc2.weight
    assert torch.equal(weight != 0, left)
    untouched = found["encoder.layers.1.fc1.weight"]
    assert kept["encoder.layers.1.fc1.weight"] == [int(untouched.sum()), untouched.numel()]
    total = [sum(numbers) for numbers in zip(*kept.values())]
    assert slim.density == total[0] / total[1] != whole.density


@pytest.mark.parametrize("kind", ["linear_st_outstr", "linear_st_instr"])
def test_s3routers_rows_and_columns_go(finetuned: Finetuned, tmp_path: Path, kind: str) -> None:
    path, out = tmp_path / "st.pt", tmp_path / "slim.pt"
    model = {**MASKS, "linear_st_op": kind}
    write_finetuned(path, finetuned.pretrained, finetuned.data, model=model)
    report = apply(path, out)
    assert all(layer.channels < layer.channels_before for layer in report.layers)
    torch.testing.assert_close(
        logits(load_finetuned(out).model), logits(load_finetuned(path).model), rtol=0, atol=1e-5
    )


def test_a_slim_model_can_lose_more(tmp_path: Path, idle: Path) -> None:
    """Its plan goes on counting as at first."""
    slim, slimmer = tmp_path / "slim.pt", tmp_path / "slimmer.pt"
    apply(idle, slim)
    rewrite(slim, lambda state: silence(state["model"], 0, heads=[1], channels=[0, 2]))
    report = apply(slim, slimmer)
    assert counts(report)[0] == (2, 52)
    assert report.layers[0].heads_before == 3 and report.layers[0].channels_before == 54
    plan = slim_plan_in(read(slimmer))
    assert plan is not None and plan.heads == HEADS and plan.kept[1:] == KEPT[1:]
    assert plan.kept[0] == KeptUnits((0, 3), (11, *CHANNELS[13:]))
    assert_equal_outputs(slimmer, slim)


def test_widths_stay_a_multiple(tmp_path: Path, idle: Path) -> None:
    report = apply(idle, tmp_path / "slim.pt", multiple_of=16)
    assert [layer.channels for layer in report.layers] == [64, 48, 64, 64]
    assert [layer.idle_channels for layer in report.layers] == [10, 4, 0, 0]
    assert "0 heads and 14 channels among them change nothing" in report.in_words()
    assert_equal_outputs(tmp_path / "slim.pt", idle)


def test_a_layer_that_changes_nothing_keeps_one_of_each(tmp_path: Path, idle: Path) -> None:
    rewrite(
        idle,
        lambda state: silence(state["model"], 3, heads=range(HEADS), channels=range(WIDTH)),
    )
    report = apply(idle, tmp_path / "slim.pt")
    last = report.layers[3]
    assert (last.heads, last.channels, last.idle_heads, last.idle_channels) == (1, 1, 1, 1)
    assert "1 heads and 1 channels among them change nothing" in report.in_words()
    assert_equal_outputs(tmp_path / "slim.pt", idle)


def test_what_belongs_to_whole_tensors_is_left_out(finetuned: Finetuned, tmp_path: Path) -> None:
    """Optimizer, running averages, and data2vec's teacher."""
    path = with_idle_units(Path(shutil.copy(finetuned("plain"), tmp_path / "whole.pt")))

    def add(state: dict[str, Any]) -> None:
        state["extra_state"]["ema"] = dict(state["model"])
        state["last_optimizer_state"] = {"state": {}, "param_groups": []}

    rewrite(path, add)
    apply(path, tmp_path / "slim.pt")
    state = read(tmp_path / "slim.pt")
    assert state["last_optimizer_state"] is None
    assert "ema" not in state["extra_state"] and state["extra_state"]["train_iterator"]
    teacher = with_idle_units(write_pretrained(tmp_path / "data2vec.pt", "data2vec"))
    apply(teacher, tmp_path / "slim2.pt")
    assert "_ema" in read(teacher)["model"] and "_ema" not in read(tmp_path / "slim2.pt")["model"]


def test_one_shot_pruning_can_write_what_it_chooses(tmp_path: Path, idle: Path) -> None:
    """Of any units, of an encoder that was given other weights."""
    out = tmp_path / "slim.pt"
    source = read_plain(idle)
    source.encoder.encoder.layers[0].fc2.bias.fill_(3.0)
    kept = [KeptUnits((1,), (5, 6)), *KEPT[1:]]
    report = write_slim(Rewriting(idle, out), source, kept, {"slimmed_by": {"of": "test"}})
    assert counts(report)[0] == (1, 2) and report.layers[0].idle_heads == 1
    assert (load_encoder(out).encoder.layers[0].fc2.bias == 3.0).all()
    assert read(out)["speechprune"]["slimmed_by"] == {"of": "test"}


# --- what a slim file is good for ----------------------------------------------------------------


def test_layers_of_slim_files_take_their_part_of_the_plan(tmp_path: Path, idle: Path) -> None:
    apply(idle, tmp_path / "slim.pt")
    drop_layers(tmp_path / "slim.pt", [0, 2], tmp_path / "short.pt")
    plan = slim_plan_in(read(tmp_path / "short.pt"))
    assert plan is not None and plan.kept == (KEPT[1], KEPT[3])
    drop_layers(idle, [0, 2], tmp_path / "whole.pt")
    assert depth(tmp_path / "short.pt") == 2
    assert_equal_outputs(tmp_path / "short.pt", tmp_path / "whole.pt")


def test_the_encoder_of_a_slim_model_is_a_slim_pretrained_one(
    finetuned: Finetuned, tmp_path: Path
) -> None:
    path = with_idle_units(Path(shutil.copy(finetuned("plain"), tmp_path / "whole.pt")))
    apply(path, tmp_path / "slim.pt")
    export_encoder(tmp_path / "slim.pt", tmp_path / "encoder.pt")
    plan = slim_plan_in(read(tmp_path / "encoder.pt"))
    assert plan is not None and plan.kept == KEPT
    assert_equal_outputs(tmp_path / "encoder.pt", path)


def test_a_slim_hubert_is_converted_with_its_plan(tmp_path: Path) -> None:
    path = with_idle_units(write_pretrained(tmp_path / "hubert.pt", "hubert"))
    apply(path, tmp_path / "slim.pt")
    convert(tmp_path / "slim.pt", tmp_path / "converted.pt")
    assert slim_plan_in(read(tmp_path / "converted.pt")) == SlimPlan("wav2vec2", HEADS, WIDTH, KEPT)
    assert torch.equal(features(tmp_path / "converted.pt")[0], features(tmp_path / "slim.pt")[0])


def test_a_slim_model_is_not_folded(finetuned: Finetuned, tmp_path: Path) -> None:
    path = with_idle_units(Path(shutil.copy(finetuned("plain"), tmp_path / "whole.pt")))
    apply(path, tmp_path / "slim.pt")
    message = refusal(fold, tmp_path / "slim.pt", tmp_path / "folded.pt")
    assert "unmodified fairseq cannot open such layers" in message and "slim.pt" in message
    assert not (tmp_path / "folded.pt").exists()
