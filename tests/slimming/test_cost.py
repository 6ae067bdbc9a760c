"""Costs of encoders and their units, against counts by hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Callable

import pytest
import torch
from nano import write_data2vec, write_hubert, write_wav2vec2
from sentences import write_roberta

from speechprune.backbones import find_backbone
from speechprune.backbones.cost import encoder_cost
from speechprune.errors import UserError
from speechprune.models.loading import load_pretrained
from speechprune.slimming.cost import Cost, unit_costs
from speechprune.slimming.plan import KeptUnits

CHANNELS, WIDTH, HEADS, LAYERS = 32, 64, 4, 3
WRITERS = {
    "base": write_wav2vec2,
    "xlsr": partial(
        write_wav2vec2, layer_norm_first=True, extractor_mode="layer_norm", normalize=True
    ),
    "data2vec": write_data2vec,
    "hubert": write_hubert,
}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def write(request: pytest.FixtureRequest) -> Callable[..., Path]:
    return partial(WRITERS[request.param], layers=LAYERS)


def products_by_hand(samples: int) -> int:
    """Multiply-adds of the nano wav2vec 2.0, without its layers."""
    total, length, inputs = 0, samples, 1
    for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
        length = (length - kernel) // stride + 1
        total, inputs = total + length * 16 * inputs * kernel, 16
    kernel, groups = 16, 4
    positions = (length + 1) * CHANNELS * (CHANNELS // groups) * kernel
    return total + length * 16 * CHANNELS + positions


def layers_by_hand(frames: int) -> int:
    projections, ffn = 4 * CHANNELS**2, 2 * CHANNELS * WIDTH
    return LAYERS * (frames * (projections + ffn) + 2 * CHANNELS * frames**2)


@pytest.mark.parametrize("samples", [16000, 16320])
def test_an_encoders_multiply_adds_are_those_counted_by_hand(tmp_path: Path, samples: int) -> None:
    """Of an even number of frames, and of an odd one that fairseq pads to an even one."""
    model = load_pretrained(write_wav2vec2(tmp_path / "base.pt", layers=LAYERS))
    found = encoder_cost(model, samples / 16000)
    assert found.frames == 50
    assert found.multiply_adds == products_by_hand(samples) + layers_by_hand(50)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("symbols", [32, 9, None])
def test_of_text_the_layers_alone_multiply(tmp_path: Path, symbols: int | None) -> None:
    """Embeddings are looked up, and count as parameters; the head of pretraining does not. With
    nothing said, a text is as long as the model takes, or 128 symbols."""
    sizes = {"encoder_embed_dim": CHANNELS, "encoder_ffn_embed_dim": WIDTH}
    model = load_pretrained(write_roberta(tmp_path / "text.pt", layers=LAYERS, **sizes))
    found = encoder_cost(model, symbols)
    assert found.frames == found.length.count == (symbols or 32)
    assert found.multiply_adds == layers_by_hand(found.frames)
    heads = sum(p.numel() for p in model.encoder.lm_head.parameters())
    tied = model.encoder.sentence_encoder.embed_tokens.weight.numel()
    assert found.parameters == sum(p.numel() for p in model.parameters()) - (heads - tied)
    longer = write_roberta(tmp_path / "longer.pt", max_positions=512)
    assert encoder_cost(load_pretrained(longer)).length.count == 128


def test_a_text_that_is_too_long_is_refused(tmp_path: Path) -> None:
    model = load_pretrained(write_roberta(tmp_path / "text.pt"))
    with pytest.raises(UserError, match="33 symbols of text are more than the model takes.* 32;"):
        encoder_cost(model, 33)


def test_what_units_cost_is_what_an_encoder_saves_without_them(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    model = load_pretrained(write(tmp_path / "model.pt"))
    family = find_backbone(model)
    before = encoder_cost(model, 0.7)
    kept = [
        KeptUnits((0, 2), tuple(range(0, WIDTH, 3))),
        KeptUnits((3,), (7,)),
        KeptUnits.all(HEADS, WIDTH),
    ]
    saved = Cost(0, 0)
    costs = unit_costs(family.units(model), before.frames)
    for layer, keeps in enumerate(kept):
        saved += costs["heads", layer] * (HEADS - len(keeps.heads))
        saved += costs["channels", layer] * (WIDTH - len(keeps.channels))
    family.slim(model, kept)
    after = encoder_cost(model, 0.7)
    assert before.multiply_adds - after.multiply_adds == saved.multiply_adds > 0
    assert before.parameters - after.parameters == saved.parameters > 0


def test_all_units_of_a_layer_are_its_products(tmp_path: Path) -> None:
    model = load_pretrained(write_wav2vec2(tmp_path / "base.pt", layers=LAYERS))
    units = find_backbone(model).units(model)
    counts = {"heads": HEADS, "channels": WIDTH}
    costs = unit_costs(units, 50).items()
    total = sum((cost * counts[kind] for (kind, _), cost in costs), Cost(0, 0))
    assert total.multiply_adds == layers_by_hand(50)
    # Of a layer stay the biases of its two outputs, and two norms.
    left = LAYERS * 6 * CHANNELS
    layers = sum(p.numel() for layer in model.encoder.layers for p in layer.parameters())
    assert total.parameters == layers - left


def test_counting_leaves_a_model_as_it_is(tmp_path: Path) -> None:
    model = load_pretrained(write_wav2vec2(tmp_path / "base.pt")).train()
    random = torch.get_rng_state()
    encoder_cost(model, 0.1)
    assert model.training and model.encoder.layers[0].training
    assert torch.equal(torch.get_rng_state(), random)


def test_too_little_audio_is_refused(tmp_path: Path) -> None:
    model = load_pretrained(write_wav2vec2(tmp_path / "base.pt"))
    with pytest.raises(UserError, match="0.01 s of audio are too short"):
        encoder_cost(model, 0.01)
