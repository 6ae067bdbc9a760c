"""LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv
2106.09685), with its scale left to the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from fairseq.models import register_model
from torch import Tensor, nn

from speechprune.models.config import FinetunedConfig
from speechprune.models.ctc import Ctc
from speechprune.models.finetuned import Finetuned

_ROLES = {"ffn.in", "ffn.out"}


@dataclass
class LowRankConfig(FinetunedConfig):
    """Those of the other models, and the rank of what is added to each feed-forward weight."""

    rank: int = field(default=4, metadata={"help": "of what is added to each weight"})


@register_model("wav2vec_ctc_low_rank", dataclass=LowRankConfig)
class Wav2VecCtcLowRank(Finetuned, Ctc):
    """Frozen weights W of the feed-forward projections act as W + B A; B, A and the head train."""

    def prepare(self, from_pretrained: bool) -> None:
        """Freeze all but the head, and add the factors."""
        self.requires_grad_(False)
        for site in self.family.sites(self.backbone, _ROLES):
            linear = site.module
            assert isinstance(linear, nn.Linear)
            linear.low_rank = _Product(linear.in_features, linear.out_features, self.cfg.rank)
            linear.register_forward_hook(_add_product)
        self.w2v_encoder.proj.requires_grad_(True)


class _Product(nn.Module):
    """x to B A x, which begins as 0.

    Attributes:
        down: A, (rank, in), which begins as the weight of a linear layer does.
        up: B, (out, rank), which begins as 0.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, inputs))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        down, up = (factor if self.training else _as_kept(factor) for factor in self.parameters())
        return x @ down.T @ up.T


def _as_kept(factor: Tensor) -> Tensor:
    """In the precision in which a task keeps it."""
    return factor.half().to(factor.dtype)


def _add_product(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    product = module.low_rank
    assert isinstance(product, _Product)
    return output + product(inputs[0])
