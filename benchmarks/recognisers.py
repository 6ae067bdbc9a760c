"""wav2vec 2.0 base with a CTC head, as it is trained: its weights, or masks on them, two ways."""

from __future__ import annotations

import math
from typing import Any

import torch
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechprune.backbones import LAYER_ROLES
from speechprune.backbones.wav2vec2 import Wav2Vec2
from speechprune.masking.controller import MaskController
from speechprune.masking.policies import POLICIES
from speechprune.masking.schedule import ConstantSchedule

#: What makes wav2vec 2.0 base small: for trying benchmarks out, not for measuring.
SMALL_ENCODER = {
    "encoder_layers": 6,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2",
    "conv_pos_groups": 4,
}

#: Share kept, and letters in the dictionary, as in the recipes.
DENSITY = 0.9
LETTERS = 32


class PlainRecogniser(nn.Module):
    """Finetunes all weights but the feature extractor's (`feature_grad_mult=0`).

    Args:
        settings: what differs from the encoder of wav2vec 2.0 base.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        cfg = Wav2Vec2Config(
            feature_grad_mult=0.0,
            activation_dropout=0.1,
            mask_channel_prob=0.25,
            encoder_layerdrop=0.0,  # each step does the same work
            **settings,
        )
        cfg.mask_channel_length = cfg.encoder_embed_dim // 12
        self.encoder = Wav2Vec2Model(cfg)
        self.encoder.remove_pretraining_modules()
        self.encoder.feature_extractor.requires_grad_(False)
        self.head = nn.Linear(cfg.encoder_embed_dim, LETTERS)

    def choose_masks(self, update: int) -> None:
        """What is done once per update about masks, before the forward pass."""

    def forward(self, source: Tensor) -> Tensor:
        """Log probabilities (T, B, LETTERS), float32, of audio (B, samples)."""
        states = self.encoder.extract_features(source, None, mask=True)["x"]
        return self.head(states.transpose(0, 1)).log_softmax(-1, dtype=torch.float32)

    def _freeze(self) -> None:
        """Everything but the head and the embedding of masked spans, as S3-Router does."""
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        self.encoder.mask_emb.requires_grad_(True)

    def _sites(self) -> list[Any]:
        return Wav2Vec2().sites(self.encoder, LAYER_ROLES)


class _SortedSubnet(torch.autograd.Function):
    """The original's selection: sort everything, ones for the largest; gradients pass through."""

    @staticmethod
    def forward(ctx: Any, importance: Tensor) -> Tensor:
        order = importance.flatten().sort().indices
        removed = int((1 - DENSITY) * importance.numel())
        subnet = torch.empty_like(importance)
        subnet.view(-1)[order[:removed]] = 0.0
        subnet.view(-1)[order[removed:]] = 1.0
        return subnet

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _SortedMask(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.empty_like(weight))
        nn.init.kaiming_uniform_(self.scores, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * _SortedSubnet.apply(self.scores.abs())


class SortedRecogniser(PlainRecogniser):
    """Finetunes masks, selected by a sort in every forward pass, as S3-Router's code does.

    Source: Fu et al., NeurIPS 2022: w = weight * (|score| is among the largest), and dL/dscore =
    dL/dw * weight * sign(score) through autograd.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._freeze()
        for site in self._sites():
            mask = _SortedMask(getattr(site.module, site.tensor))
            parametrize.register_parametrization(site.module, site.tensor, mask)

    def forward(self, source: Tensor) -> Tensor:
        with parametrize.cached():  # once per forward pass, however often a weight is read
            return super().forward(source)


class MaskedRecogniser(PlainRecogniser):
    """Finetunes masks, the way speechprune does."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._freeze()
        self.controller = MaskController(
            self._sites(),
            POLICIES.build("s3router", init_score="kaiming_uniform"),
            ConstantSchedule(DENSITY),
        )

    def choose_masks(self, update: int) -> None:
        self.controller.set_num_updates(update)


RECOGNISERS = {"plain": PlainRecogniser, "sort": SortedRecogniser, "ours": MaskedRecogniser}
