"""The contract of backbones, for a nano model of every registered family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_contract import CONTRACT, Family
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from nano import write_data2vec, write_hubert, write_wav2vec2
from padding_contract import PADDING_CONTRACT
from readme import readme_snippet
from sentences import write_roberta
from slimming_contract import SLIMMING_CONTRACT
from sources import Audio, Text
from torch import nn

from speechprune.backbones import BACKBONES, find_backbone
from speechprune.errors import UserError
from speechprune.models.loading import load_pretrained

#: RoBERTa in the sizes of the speech models: 32 channels, 4 heads, FFN width 64.
_write_roberta = partial(write_roberta, encoder_embed_dim=32, encoder_ffn_embed_dim=64)

#: What is built of each family, by name, and where a last layer norm is that follows the layers.
FAMILIES = {
    "base": ("wav2vec2", write_wav2vec2, None),
    "base_layer_norm": ("wav2vec2", partial(write_wav2vec2, extractor_mode="layer_norm"), None),
    "xlsr": (
        "wav2vec2",
        partial(write_wav2vec2, layer_norm_first=True, extractor_mode="layer_norm", normalize=True),
        "encoder.layer_norm",
    ),
    "data2vec": ("data2vec_audio", write_data2vec, None),
    "hubert_base": ("hubert", write_hubert, None),
    "hubert_batch_norm": ("hubert", partial(write_hubert, conv_pos_batch_norm=True), None),
    "hubert_large": (
        "hubert",
        partial(write_hubert, layer_norm_first=True, extractor_mode="layer_norm", normalize=True),
        "encoder.layer_norm",
    ),
    "roberta": ("roberta", _write_roberta, None),
    "roberta_pre_norm": (
        "roberta",
        partial(_write_roberta, encoder_normalize_before=True),
        "encoder.sentence_encoder.layer_norm",
    ),
    "roberta_layerdrop": ("roberta", partial(_write_roberta, encoder_layerdrop=0.05), None),
}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    backbone, write, final_norm = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    written: dict[int, Path] = {}

    def build(layers: int = 2) -> nn.Module:
        if layers not in written:
            written[layers] = write(folder / f"{layers}.pt", layers=layers)
        return load_pretrained(written[layers])

    known = BACKBONES.build(backbone)
    sources = Text() if known.hears == "text" else Audio()
    return Family(request.param, known, build, final_norm, sources)


@pytest.mark.parametrize(
    "promise",
    (*CONTRACT, *PADDING_CONTRACT, *SLIMMING_CONTRACT),
    ids=lambda promise: promise.__name__,
)
def test_backbone(family: Family, promise: Callable[[Family], None]) -> None:
    promise(family)


def test_every_registered_family_is_tested() -> None:
    assert {backbone for backbone, *_ in FAMILIES.values()} == set(BACKBONES.names())


def test_a_model_is_known_by_its_own_family_alone(family: Family) -> None:
    model = family.build()
    assert type(find_backbone(model)) is type(family.backbone)
    knowing = [name for name in BACKBONES.names() if BACKBONES.build(name).matches(model)]
    assert knowing == [FAMILIES[family.name][0]]


@pytest.mark.parametrize("name", ["a_model", "zzz_model"])
def test_of_relatives_the_nearest_knows_a_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backbone of the how-to, whatever its name comes before or after."""
    assert BACKBONES.names()
    monkeypatch.setattr(BACKBONES, "_parts", dict(BACKBONES._parts))
    scope: dict[str, Any] = {}
    exec(readme_snippet("Add a backbone").replace("my_model", name), scope)
    model = nn.Module()
    model.__class__ = type("MyModel", (Wav2Vec2Model,), {})
    assert type(find_backbone(model)) is scope["MyModel"]


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(UserError, match="Linear.*wav2vec2"):
        find_backbone(nn.Linear(2, 2))


def test_layers_of_roberta_are_skipped_in_training_also_once_some_are_dropped(
    tmp_path: Path,
) -> None:
    """And all of them count where hidden states are asked for."""
    model = load_pretrained(write_roberta(tmp_path / "a.pt", layers=3, encoder_layerdrop=0.5))
    family = find_backbone(model)
    family.drop_layers(model, [1])
    model.train()
    called: list[int] = []
    for number, layer in enumerate(family.layers(model)):
        layer.register_forward_hook(lambda *_, number=number: called.append(number))
    source = Text().draw()
    torch.manual_seed(0)
    for _ in range(64):
        family.features(model, source, None)
    assert all(16 < called.count(number) < 48 for number in range(2))
    called.clear()
    states, _ = family.hidden_states(model, source, None)
    assert len(states) == 3 and called == [0, 1]
