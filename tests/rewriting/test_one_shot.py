"""Heads and channels removed at once: their scores, what is repaired, and the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import logits
from conftest import without_gpu
from kinds import FAMILIES, Finetuned, write_pretrained
from nano import write_corpus, write_finetuned, write_hubert, write_wav2vec2
from torch import Tensor, nn
from torch.nn import functional

from speechprune.backbones import find_backbone
from speechprune.checkpoint.file import PROVENANCE, read
from speechprune.decoding.inference import read_audio
from speechprune.models.loading import load_encoder, load_finetuned, load_pretrained
from speechprune.models.sites import encoder_of_model
from speechprune.recipes.nano import ASSET
from speechprune.rewriting.audio_calibration import AudioCalibration
from speechprune.rewriting.calibration import Draw
from speechprune.rewriting.layer_repair import repair
from speechprune.rewriting.one_shot import prune
from speechprune.rewriting.plain_checkpoint import read_plain
from speechprune.rewriting.unit_scores import scores_of_batches
from speechprune.slimming.choice import BudgetChoice, ShareChoice
from speechprune.slimming.criteria import CRITERIA
from speechprune.slimming.plan import KeptUnits

HALF = ShareChoice(0.5, 0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"), train=10, valid=6)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A HuBERT, whose frames fairseq counts in another way in padded batches."""
    folder = tmp_path_factory.mktemp("finetuned")
    return write_finetuned(folder / "finetuned.pt", write_hubert(folder / "p.pt"), data)


def recordings(data: Path, subset: str) -> list[tuple[np.ndarray, str]]:
    root, *rows = (data / f"{subset}.tsv").read_text().splitlines()
    labels = (data / f"{subset}.ltr").read_text().splitlines()
    return [
        (read_audio(Path(root) / row.split("\t")[0], 16000), label)
        for row, label in zip(rows, labels)
    ]


def calibration(data: Path, **options: Any) -> AudioCalibration:
    draw = Draw(data, "train", **options)
    return AudioCalibration(draw, normalize=False, rate=16000, labels="ltr")


# --- scores --------------------------------------------------------------------------------------


def gradients_by_hand(loaded: Any, utterances: Sequence[tuple[np.ndarray, str]]) -> dict[str, Any]:
    """Of the mean CTC loss of some utterances, each alone, through the whole model's `forward`."""
    model = loaded.model.requires_grad_(True)
    model.zero_grad()
    model.w2v_encoder.freeze_finetune_updates = 0
    symbols = loaded.dictionary.symbols
    for samples, label in utterances:
        source = torch.from_numpy(samples)[None]
        output = model(source=source, padding_mask=torch.zeros_like(source, dtype=torch.bool))
        probabilities = output["encoder_out"].log_softmax(-1)
        target = torch.tensor([symbols.index(symbol) for symbol in label.split()])
        lengths = torch.tensor([len(probabilities)]), torch.tensor([len(target)])
        loss = functional.ctc_loss(
            probabilities, target[None], *lengths, reduction="sum", zero_infinity=True
        )
        (loss / len(utterances)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("max_tokens", [1, 50_000, 10_000_000])
def test_scores_are_those_of_autograd_by_hand(finetuned: Path, data: Path, max_tokens: int) -> None:
    drawn = calibration(data, batches=2, batch_size=4, max_tokens=max_tokens, seed=3)
    loaded = load_finetuned(finetuned)
    encoder = encoder_of_model(loaded.model)
    family = find_backbone(encoder)
    batches = drawn.batches(torch.device("cpu"), lambda n: family.frame_count(encoder, n))
    found = scores_of_batches(loaded, CRITERIA.build("snip_momentum"), batches)
    everything = recordings(data, "train")
    order = np.random.default_rng(3).permutation(10)[:8]
    weights = {name: p.detach() for name, p in loaded.model.named_parameters()}
    name = "w2v_encoder.w2v_model.encoder.layers.1."
    heads, channels = torch.zeros(4), torch.zeros(64)
    for batch in (order[:4], order[4:]):
        gradients = gradients_by_hand(loaded, [everything[index] for index in batch])

        def saliency(weight: str, gradients: dict[str, Tensor] = gradients) -> Tensor:
            return (weights[name + weight] * gradients[name + weight]).abs()

        rows = [saliency(f"self_attn.{p}_proj.weight") for p in "qkv"]
        columns = saliency("self_attn.out_proj.weight").T
        parts = [each.view(4, 8, 32).mean((1, 2)) for each in (*rows, columns)]
        heads = 0.9 * heads + sum(parts) / 4
        channels = 0.9 * channels + saliency("fc2.weight").mean(0)
    torch.testing.assert_close(found[1].heads, heads, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(found[1].channels, channels, rtol=1e-4, atol=1e-9)


def test_scoring_changes_no_weight(finetuned: Path, data: Path) -> None:
    loaded = load_finetuned(finetuned)
    encoder = encoder_of_model(loaded.model)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    batches = calibration(data).batches(torch.device("cpu"), lambda frames: frames > 400)
    scores_of_batches(loaded, CRITERIA.build("snip"), batches)
    after = loaded.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not encoder.training and all(p.grad is None for p in loaded.model.parameters())


# --- repair --------------------------------------------------------------------------------------


def attention_error(encoder: Any, whole: Any, sources: Sequence[Tensor]) -> float:
    """How far the attention of layer 0 is from that of a whole encoder, utterance by utterance.

    Both have attention that calls its output projection.
    """
    outputs: list[list[Tensor]] = []
    for model in (encoder, whole):
        seen: list[Tensor] = []
        outputs.append(seen)
        out = find_backbone(model).units(model)[0].out
        hook = out.register_forward_hook(lambda module, given, output, s=seen: s.append(output))
        with torch.no_grad():
            for source in sources:
                frames = find_backbone(model).features(model, source, None)[0].shape[1]
                seen[-1] = seen[-1][:frames, 0]
        hook.remove()
    given, wanted = map(torch.cat, outputs)
    return float((given - wanted).norm() / wanted.norm())


def with_own_attention(path: Path) -> tuple[Any, list[KeptUnits]]:
    """An encoder whose attention is ours, with all units; and half of these."""
    encoder = load_encoder(path)
    family = find_backbone(encoder)
    units = family.units(encoder)
    family.slim(encoder, [KeptUnits.all(layer.heads, layer.channels) for layer in units])
    half = [KeptUnits(tuple(range(0, u.heads, 2)), tuple(range(0, u.channels, 2))) for u in units]
    return encoder, half


def test_errors_are_those_of_blocks_when_run(finetuned: Path, data: Path) -> None:
    whole, half = with_own_attention(finetuned)
    unrepaired, _ = with_own_attention(finetuned)
    repaired, _ = with_own_attention(finetuned)
    family = find_backbone(whole)
    drawn = calibration(data, batches=1, batch_size=10)
    is_audible = lambda frames: family.frame_count(whole, frames)  # noqa: E731
    (parts,) = drawn.batches(torch.device("cpu"), is_audible)
    assert len(parts) == 1 and parts[0].padding_mask.any()
    errors = repair(family, repaired, half, parts)
    sources = [torch.from_numpy(samples)[None] for samples, _ in recordings(data, "train")]
    with torch.no_grad():
        out = family.units(unrepaired)[0].out
        out.weight.view(32, 4, 8)[:, 1::2] = 0.0
    before, after = errors[0].attention.before, errors[0].attention.after
    assert before == pytest.approx(attention_error(unrepaired, whole, sources), rel=1e-3)
    assert after == pytest.approx(attention_error(repaired, whole, sources), rel=1e-2)
    assert after < 0.5 * before


def test_repair_needs_none_of_the_units_that_go(finetuned: Path, data: Path) -> None:
    encoder, half = with_own_attention(finetuned)
    family = find_backbone(encoder)
    parts, _ = calibration(data).batches(torch.device("cpu"), lambda frames: frames > 400)
    repair(family, encoder, half, parts)
    source = torch.randn(1, 16000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = family.features(encoder, source, None)[0]
        family.slim(encoder, half)
        torch.testing.assert_close(
            family.features(encoder, source, None)[0], expected, rtol=1e-5, atol=1e-5
        )


def test_what_is_kept_whole_is_left_alone(finetuned: Path, data: Path, tmp_path: Path) -> None:
    amount = ShareChoice(0.0, 0.5)
    report = prune(finetuned, tmp_path / "out.pt", amount, draw=Draw(data, "train"), repaired=True)
    assert report.errors is not None
    assert all(layer.attention.before == 0.0 for layer in report.errors)
    before, after = read(finetuned)["model"], read(tmp_path / "out.pt")["model"]
    names = [name for name in before if "out_proj" in name]
    assert names and all(torch.equal(before[name], after[name]) for name in names)


@torch.no_grad()
def distance(first: nn.Module, second: nn.Module, data: Path, subset: str) -> float:
    """Between the outputs of two encoders, relative to those of the first."""
    off = of = 0.0
    for samples, _ in recordings(data, subset):
        source = torch.from_numpy(samples)[None]
        outputs = [find_backbone(m).features(m, source, None)[0] for m in (first, second)]
        off += float((outputs[0] - outputs[1]).square().sum())
        of += float(outputs[0].square().sum())
    return (off / of) ** 0.5


def test_repair_brings_a_real_model_nearer_to_itself(data: Path, tmp_path: Path) -> None:
    """On audio that it was not repaired by."""
    prune(ASSET, tmp_path / "plain.pt", HALF)
    draw = Draw(data, "train")
    report = prune(ASSET, tmp_path / "repaired.pt", HALF, draw=draw, repaired=True)
    whole, plain, repaired = (
        load_pretrained(path) for path in (ASSET, tmp_path / "plain.pt", tmp_path / "repaired.pt")
    )
    assert distance(whole, repaired, data, "valid") < 0.8 * distance(whole, plain, data, "valid")
    assert report.errors is not None
    for layer in report.errors:
        for block in (layer.attention, layer.feed_forward):
            assert 0.0 < block.after < block.before


# --- files ---------------------------------------------------------------------------------------


def test_it_is_the_same_again_and_in_other_batches(
    finetuned: Path, data: Path, tmp_path: Path
) -> None:
    states = []
    for number, max_tokens in enumerate((200_000, 200_000, 1)):
        out = tmp_path / f"{number}.pt"
        draw = Draw(data, "train", batches=2, batch_size=4, max_tokens=max_tokens)
        prune(finetuned, out, HALF, draw=draw, repaired=True)
        states.append(read(out)["model"])
    first, again, alone = states
    assert list(first) == list(again) == list(alone)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.cuda
def test_a_gpu_writes_the_same(finetuned: Path, data: Path, tmp_path: Path) -> None:
    there, here = tmp_path / "cuda.pt", tmp_path / "cpu.pt"
    draw = Draw(data, "train")
    prune(finetuned, there, HALF, draw=draw, repaired=True)
    with without_gpu():
        prune(finetuned, here, HALF, draw=draw, repaired=True)
    expected = read(here)["model"]
    for name, tensor in read(there)["model"].items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("repaired", [False, True])
def test_every_family_loads_slim(family: str, repaired: bool, data: Path, tmp_path: Path) -> None:
    """Pretrained, and finetuned of it."""
    pretrained = write_pretrained(tmp_path / "pretrained.pt", family)
    finetuned = write_finetuned(tmp_path / "finetuned.pt", pretrained, data)
    draw = Draw(data, "train")
    for path, load in ((pretrained, load_pretrained), (finetuned, load_encoder)):
        out = path.with_name(f"slim_{path.name}")
        by = {"criterion": "magnitude", "draw": draw if repaired else None}
        report = prune(path, out, HALF, repaired=repaired, **by)
        encoder = load(out)
        units = find_backbone(encoder).units(encoder)
        assert [(u.heads, u.channels) for u in units] == [(2, 32)] * 4
        assert report.after.parameters == sum(p.numel() for p in encoder.parameters())
        assert report.after.multiply_adds < report.before.multiply_adds
    assert logits(load_finetuned(tmp_path / "slim_finetuned.pt").model).isfinite().all()


def test_without_repair_the_rest_is_as_it_was(tmp_path: Path) -> None:
    """By magnitude: what stays are the largest, and their weights."""
    path, out = write_wav2vec2(tmp_path / "p.pt"), tmp_path / "out.pt"
    prune(path, out, HALF)
    before, after = read(path)["model"], read(out)["model"]
    weight = before["encoder.layers.0.fc2.weight"]
    kept = weight.abs().mean(0).argsort(descending=True)[:32].sort().values
    assert torch.equal(after["encoder.layers.0.fc2.weight"], weight[:, kept])
    for name in ("fc1.weight", "fc1.bias"):
        assert torch.equal(
            after[f"encoder.layers.0.{name}"], before[f"encoder.layers.0.{name}"][kept]
        )


@pytest.mark.parametrize("kind", ["plain", "st", "masked", "folded", "plain_2020"])
def test_finetuned_models_of_every_kind(kind: str, tmp_path: Path) -> None:
    """Masks are baked in: with nothing repaired, what stays is what the masked model had."""
    files = Finetuned(tmp_path)
    out = tmp_path / "out.pt"
    report = prune(files(kind), out, HALF, draw=Draw(files.data, "train"))
    assert report.criterion == "snip_momentum" and report.calibration == {"utterances": 1}
    loaded = load_finetuned(out)
    assert not hasattr(loaded.model, "mask_controller")
    assert logits(loaded.model).isfinite().all()


def test_a_slim_model_can_be_pruned_again(finetuned: Path, data: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.pt", tmp_path / "twice.pt"
    draw = Draw(data, "train")
    prune(finetuned, once, HALF, draw=draw, repaired=True)
    prune(once, twice, HALF, draw=draw, repaired=True)
    first, second = (find_backbone(e).slim_plan(e) for e in map(load_encoder, (once, twice)))
    assert first is not None and second is not None
    for before, after in zip(first.kept, second.kept):
        assert (len(after.heads), len(after.channels)) == (1, 16)
        assert set(after.heads) < set(before.heads)
        assert set(after.channels) < set(before.channels)


@pytest.mark.parametrize("measure", ["parameters", "multiply_adds"])
def test_a_budget_is_of_the_whole_encoder(
    measure: str, finetuned: Path, data: Path, tmp_path: Path
) -> None:
    amount = BudgetChoice(0.85, normalised=True, measure=measure)
    report = prune(finetuned, tmp_path / "out.pt", amount, draw=Draw(data, "train"))
    share = getattr(report.after, measure) / getattr(report.before, measure)
    assert 0.78 < share <= 0.85


def test_half_precision_stays_so(tmp_path: Path, data: Path) -> None:
    path, out = write_wav2vec2(tmp_path / "p.pt"), tmp_path / "out.pt"
    state = torch.load(path, weights_only=True)
    state["model"] = {name: value.half() for name, value in state["model"].items()}
    torch.save(state, path)
    prune(path, out, HALF, draw=Draw(data, "train"), repaired=True)
    assert {value.dtype for value in read(out)["model"].values()} == {torch.float16}


def test_the_file_tells_how_it_was_made(finetuned: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    draw = Draw(data, "train", batches=2, batch_size=3, seed=7)
    prune(finetuned, out, HALF, criterion="snip", draw=draw, repaired=True)
    noted = read(out)[PROVENANCE]["pruned_by"]
    drawn = noted.pop("calibration")
    assert noted == {
        "criterion": "snip",
        **dataclasses.asdict(HALF),
        "repaired": True,
    }
    assert len(drawn.pop("manifest")) == 64
    assert drawn == {"subset": "train", "utterances": 6, "batch_size": 3, "seed": 7}


def test_masks_of_weights_are_scored_as_zeros(tmp_path: Path) -> None:
    """A channel that masks emptied goes first."""
    files = Finetuned(tmp_path)
    path = files("st")
    loaded = load_finetuned(path)
    loaded.model.fold()
    family = find_backbone(encoder_of_model(loaded.model))
    weight = family.units(encoder_of_model(loaded.model))[0].second.weight
    worst = weight.abs().mean(0).argmin().item()
    out = tmp_path / "out.pt"
    prune(path, out, ShareChoice(0.0, 1 / 64), criterion="magnitude")
    plan = find_backbone(e := load_encoder(out)).slim_plan(e)
    assert plan is not None and worst not in plan.kept[0].channels
    assert read_plain(out).prefix
