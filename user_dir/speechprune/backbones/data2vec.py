"""data2vec audio: wav2vec 2.0's layout with a stack of convolutions for positions."""

from __future__ import annotations

from torch import nn

from speechprune.backbones.base import BACKBONES
from speechprune.backbones.wav2vec2 import Wav2Vec2


@BACKBONES.register("data2vec_audio")
class Data2VecAudio(Wav2Vec2):
    """fairseq's `Data2VecAudioModel`, which lives outside the fairseq package.

    Its stacked positional convolutions see padding: analyse it unpadded.
    """

    fairseq_name = "data2vec_audio"

    def matches(self, model: nn.Module) -> bool:
        from speechprune.plugin import data2vec_audio

        return isinstance(model, data2vec_audio().Data2VecAudioModel)
