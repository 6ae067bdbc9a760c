"""data2vec audio: wav2vec 2.0's layout with a stack of convolutions for positions."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from torch import nn

from speechprune.backbones.base import BACKBONES
from speechprune.backbones.wav2vec2 import Wav2Vec2


@functools.cache
def data2vec_audio() -> ModuleType:
    """fairseq's `data2vec_audio` model: packaged as an example, registered by no import.

    The file is loaded alone: its package imports torchvision.
    """
    import fairseq
    from fairseq.models import MODEL_REGISTRY

    if "data2vec_audio" in MODEL_REGISTRY:
        return sys.modules[MODEL_REGISTRY["data2vec_audio"].__module__]
    path = Path(fairseq.__file__).parent / "examples/data2vec/models/data2vec_audio.py"
    name = "speechprune.data2vec_audio"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@BACKBONES.register("data2vec_audio")
class Data2VecAudio(Wav2Vec2):
    """fairseq's `Data2VecAudioModel`, which lives outside the fairseq package."""

    fairseq_name: ClassVar[str] = "data2vec_audio"

    def make_known(self) -> None:
        data2vec_audio()

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, data2vec_audio().Data2VecAudioModel)

    def build(self, task: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
        self.make_known()
        return super().build(task, settings)
