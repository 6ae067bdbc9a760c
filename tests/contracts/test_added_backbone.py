"""The backbone that the pages show how to add keeps the contract."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Callable

import pytest
from backbone_contract import CONTRACT, Family
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from nano import write_wav2vec2
from padding_contract import PADDING_CONTRACT
from readme import readme_snippet
from slimming_contract import SLIMMING_CONTRACT
from torch import nn

from speechprune.backbones import BACKBONES
from speechprune.models.loading import load_pretrained


class MyModel(Wav2Vec2Model):
    """A relative of wav2vec 2.0 whose class speechprune does not know."""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    folder = tmp_path_factory.mktemp("my_model")

    def build(layers: int = 2) -> nn.Module:
        path = folder / f"{layers}.pt"
        model = load_pretrained(path if path.exists() else write_wav2vec2(path, layers=layers))
        model.__class__ = MyModel
        return model

    with pytest.MonkeyPatch.context() as monkeypatch:
        parts = {name: BACKBONES.get(name) for name in BACKBONES.names()}
        monkeypatch.setattr(BACKBONES, "_parts", parts)
        module = ModuleType("my_model")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(readme_snippet("Add a backbone"), module.__dict__)
        yield Family("my_model", BACKBONES.build("my_model"), build)


@pytest.mark.parametrize(
    "promise",
    (*CONTRACT, *PADDING_CONTRACT, *SLIMMING_CONTRACT),
    ids=lambda promise: promise.__name__,
)
def test_backbone(family: Family, promise: Callable[[Family], None]) -> None:
    promise(family)
