"""Layers dropped from checkpoint files: what is left, and that it is the network without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import MASKS, in_plain_fairseq, logits, rewrite
from kinds import (
    FINETUNED,
    LAYERS,
    PRETRAINED,
    Finetuned,
    encoder_settings,
    model_settings,
    write_pretrained,
)
from nano import write_finetuned
from states import difference
from torch import Tensor, nn

from speechprune.backbones import BACKBONES, find_backbone
from speechprune.checkpoint import read
from speechprune.checkpoint.layers import depth
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.rewriting.layer_dropping import drop_layers

DROPPED = [1, 3]
#: Where the layers that are left come from, and what has become of those that are gone.
KEPT = {0: 0, 2: 1}


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    return Finetuned(tmp_path_factory.mktemp("finetuned"))


class Skipped(nn.Module):
    """Takes the place of a layer and hands on what it gets."""

    def forward(self, x: Tensor, **unused: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return x, (x, x)


def skip(encoder: Any, layers: list[int]) -> None:
    for layer in layers:
        encoder.encoder.layers[layer] = Skipped()


def features(encoder: Any) -> Tensor:
    source = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return find_backbone(encoder).features(encoder, source, None)[0]


def moved(key: str) -> str | None:
    """What a key is called without DROPPED, by the words that it is made of."""
    for layer in range(LAYERS):
        if f"layers.{layer}." in key and "conv_layers" not in key:
            new = KEPT.get(layer)
            return None if new is None else key.replace(f"layers.{layer}.", f"layers.{new}.")
    return key


def without_layers(state: dict[str, Any]) -> dict[str, Any]:
    return {
        moved(key): without_layers(value) if isinstance(value, dict) else value
        for key, value in state.items()
        if moved(key) is not None
    }


# --- what is left --------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "layout"), PRETRAINED)
def test_pretrained_models_lose_layers(tmp_path: Path, family: str, layout: str) -> None:
    path = write_pretrained(tmp_path / "whole.pt", family, layout)
    out = tmp_path / "short.pt"
    drop_layers(path, DROPPED, out)
    assert (depth(path), depth(out)) == (4, 2)
    assert encoder_settings(out)["encoder_layers"] == 2
    assert set(encoder_settings(out)) == set(encoder_settings(path))
    assert type(read(out).get("cfg") or {}) is dict

    whole, short = load_encoder(path), load_encoder(out)
    assert not torch.equal(features(short), features(whole))
    skip(whole, DROPPED)
    assert len(short.encoder.layers) == 2
    assert torch.equal(features(short), features(whole))


def test_tensors_change_their_layer_and_nothing_else(tmp_path: Path) -> None:
    """Those of data2vec's teacher too, and in half precision."""
    path = write_pretrained(tmp_path / "whole.pt", "data2vec")
    half = {k: v.half() for k, v in read(path)["model"].items() if isinstance(v, Tensor)}
    rewrite(path, lambda state: state["model"].update(half))
    drop_layers(path, DROPPED, tmp_path / "short.pt")
    found = read(tmp_path / "short.pt")
    assert difference(found["model"], without_layers(read(path)["model"])) == []
    assert "layers.1.fc1.weight" in found["model"]["_ema"]
    assert not any("layers.2.fc1" in key for key in (*found["model"], *found["model"]["_ema"]))
    assert found["cfg"]["model"]["average_top_k_layers"] == 2
    assert (tmp_path / "short.pt").stat().st_size < 0.75 * path.stat().st_size


def test_targets_of_few_layers_stay(tmp_path: Path) -> None:
    path = write_pretrained(tmp_path / "whole.pt", "data2vec")
    rewrite(path, lambda state: state["cfg"]["model"].update(average_top_k_layers=1))
    drop_layers(path, DROPPED, tmp_path / "short.pt")
    assert encoder_settings(tmp_path / "short.pt")["average_top_k_layers"] == 1


@pytest.mark.parametrize("kind", FINETUNED)
def test_finetuned_models_lose_layers(finetuned: Finetuned, tmp_path: Path, kind: str) -> None:
    path, out = finetuned(kind), tmp_path / "short.pt"
    drop_layers(path, DROPPED, out)
    assert (depth(path), depth(out)) == (4, 2)
    assert difference(read(out)["model"], without_layers(read(path)["model"])) == []

    whole, short = load_finetuned(path), load_finetuned(out)
    assert short.dictionary.symbols == whole.dictionary.symbols
    assert not torch.equal(logits(short.model), logits(whole.model))
    skip(whole.model.w2v_encoder.w2v_model, DROPPED)
    assert torch.equal(logits(short.model), logits(whole.model))
    assert model_settings(out).get("_name") == model_settings(path).get("_name")


@pytest.mark.parametrize("family", ["xlsr", "data2vec"])
def test_finetuned_models_of_other_families_lose_layers(
    finetuned: Finetuned, tmp_path: Path, family: str
) -> None:
    source = write_pretrained(tmp_path / "pretrained.pt", family)
    path = write_finetuned(tmp_path / "whole.pt", source, finetuned.data, model=MASKS)
    drop_layers(path, DROPPED, tmp_path / "short.pt")
    whole, short = load_encoder(path), load_encoder(tmp_path / "short.pt")
    skip(whole, DROPPED)
    assert torch.equal(features(short), features(whole))
    assert encoder_settings(tmp_path / "short.pt")["encoder_layers"] == 2


def test_models_that_were_trained_without_layers_lose_more(
    finetuned: Finetuned, tmp_path: Path
) -> None:
    """Layers are counted as they are in the file."""
    path, out = tmp_path / "whole.pt", tmp_path / "short.pt"
    model = {"_name": "wav2vec_ctc_pruned", "drop_layers": [0]}
    write_finetuned(path, finetuned.pretrained, finetuned.data, model=model)
    drop_layers(path, [1], out)
    assert (depth(path), depth(out)) == (3, 2)
    assert (model_settings(path)["drop_layers"], model_settings(out)["drop_layers"]) == ([0], [])
    whole, short = load_finetuned(path), load_finetuned(out)
    skip(whole.model.w2v_encoder.w2v_model, [1])
    assert torch.equal(logits(short.model), logits(whole.model))


@pytest.mark.parametrize("kind", ["plain", "folded"])
def test_unmodified_fairseq_loads_what_it_loaded_before(
    finetuned: Finetuned, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "short.pt"
    drop_layers(finetuned(kind), DROPPED, out)
    # PyTorch asks for leave to read the dictionary in a checkpoint that fairseq has saved itself.
    asked = {} if kind == "folded" else {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    found, output = in_plain_fairseq(out, tmp_path, **asked)
    loaded = load_finetuned(out)
    assert found[:2] == ["Wav2VecCtc", loaded.dictionary.symbols]
    assert torch.equal(output, logits(loaded.model, padded=False))


def test_layers_of_two_digits_are_told_apart() -> None:
    for name in BACKBONES.names():
        rename = BACKBONES.build(name).key_without_layers
        for prefix in ("encoder.", "w2v_encoder.w2v_model.encoder.", ""):
            keys = [f"{prefix}layers.{i}.self_attn.q_proj.weight_mask" for i in range(24)]
            found = [rename(key, (1, 10, 1)) for key in keys]
            assert [key for key in found if key is not None] == keys[:22]
            assert found[1] is None and found[10] is None
        for other in ("text_encoder.layers.1.weight", "feature_extractor.conv_layers.1.0.weight"):
            assert rename(other, (0, 1)) == other
