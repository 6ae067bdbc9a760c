"""Channels cut out of models of transformers: equal outputs, and a config that loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face import CHANNELS, HEADS, LAYERS, NAMES, evaluated, loss, minilm, small
from transformers import AutoModel

from speechprune.errors import UserError
from speechprune.huggingface import mask, sites_of, slim
from speechprune.slimming.criteria import CRITERIA


def second_layers(model: Any) -> list[Any]:
    return [site.module for site in sites_of(model, ["ffn.out"])]


@pytest.mark.parametrize("family", NAMES)
def test_the_cut_model_is_the_masked_one_and_loads_again(family: str, tmp_path: Path) -> None:
    model, masked = small(family, head=True), small(family, head=True)
    whole = sum(parameter.numel() for parameter in model.parameters())
    plan = slim(model, ffn=0.5)
    for layer, keeps in zip(second_layers(masked), plan.kept):
        strength = layer.weight.detach().abs().mean(0)
        strongest = strength.argsort(descending=True, stable=True)[: CHANNELS // 2]
        assert keeps.channels == tuple(strongest.sort().values.tolist())
        assert keeps.heads == tuple(range(HEADS))
        removed = [c for c in range(CHANNELS) if c not in keeps.channels]
        with torch.no_grad():
            layer.weight[:, removed] = 0.0
    assert len({keeps.channels for keeps in plan.kept}) == LAYERS
    torch.testing.assert_close(evaluated(model), evaluated(masked), atol=1e-5, rtol=1e-5)
    left = sum(parameter.numel() for parameter in model.parameters())
    width = second_layers(model)[0].out_features
    assert whole - left == LAYERS * (CHANNELS // 2) * (2 * width + 1)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(evaluated(again), evaluated(model))
    assert plan.backbone == family


@pytest.mark.parametrize("criterion", [n for n in CRITERIA.names() if n != "magnitude"])
def test_gradients_say_what_goes(criterion: str) -> None:
    model = small("bert", head=True)
    with pytest.raises(UserError, match="call loss.backward"):
        slim(model, ffn=0.5, criterion=criterion)
    loss(model).backward()
    for layer in second_layers(model):
        layer.weight.grad[:, ::2] = 0.0
    plan = slim(model, ffn=0.5, criterion=criterion)
    assert all(keeps.channels == tuple(range(1, CHANNELS, 2)) for keeps in plan.kept)


def test_numbers_of_channels_are_round_and_cut_again() -> None:
    model = small("xlnet")
    assert len(slim(model, ffn=0.6, multiple_of=8).kept[0].channels) == 16
    assert model.config.d_inner == 16
    plan = slim(model, ffn=0.25)
    assert (plan.channels, len(plan.kept[0].channels)) == (16, 12)
    loss(model).backward()  # it still trains


def test_a_real_bert_loses_half_of_its_channels(tmp_path: Path) -> None:
    model: Any = AutoModel.from_pretrained(minilm())
    slim(model, ffn=0.5)
    model.save_pretrained(tmp_path)
    again: Any = AutoModel.from_pretrained(tmp_path)
    assert again.config.intermediate_size == 768
    assert again.encoder.layer[5].output.dense.weight.shape == (384, 768)
    assert torch.equal(
        again.encoder.layer[5].output.dense.weight, model.encoder.layer[5].output.dense.weight
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"heads": 0.5}, "a bert of fewer heads could not be loaded again.*ffn=SHARE"),
        ({}, "nothing is to be removed"),
        ({"ffn": 1.0}, "the share removed"),
        ({"ffn": 0.5, "criterion": "magnitud"}, "did you mean 'magnitude'"),
        ({"ffn": 0.5, "multiple_of": 0}, "cannot be a multiple of 0"),
    ],
)
def test_what_cannot_be_cut_is_refused(asked: dict[str, Any], message: str) -> None:
    model = small("bert")
    with pytest.raises(UserError, match=message) as error:
        slim(model, **asked)
    assert "\n" not in str(error.value)
    assert model.config.intermediate_size == CHANNELS


def test_masks_are_folded_first() -> None:
    model = small("bert")
    mask(model, "parp", density=0.5)
    with pytest.raises(UserError, match="bakes them in first"):
        slim(model, ffn=0.5)
