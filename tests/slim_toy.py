"""A transformer of two small layers, whose heads and channels can have gates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from speechprune.slimming.units import LayerUnits

WIDTH = 8
HEAD_SIZE = 3
#: Heads and channels of each layer.
EVEN = ((4, 20), (4, 20))


class SlimToyLayer(nn.Module):
    """(B, T, C) -> (B, T, C): attention and a feed-forward block, each with a residual."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        inner = heads * HEAD_SIZE
        self.heads = heads
        self.query = nn.Linear(WIDTH, inner)
        self.key = nn.Linear(WIDTH, inner)
        self.value = nn.Linear(WIDTH, inner)
        self.out = nn.Linear(inner, WIDTH)
        self.first = nn.Linear(WIDTH, channels)
        self.second = nn.Linear(channels, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            linear(x).unflatten(-1, (self.heads, HEAD_SIZE)).transpose(-3, -2)
            for linear in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-1, -2)).softmax(-1)
        x = x + self.out((weights @ value).transpose(-3, -2).flatten(-2))
        return x + self.second(F.gelu(self.first(x)))

    def units(self, layer: int) -> LayerUnits:
        return LayerUnits(
            layer=layer,
            query=self.query,
            key=self.key,
            value=self.value,
            out=self.out,
            first=self.first,
            second=self.second,
            heads=self.heads,
            head_size=HEAD_SIZE,
            activation=F.gelu,
        )


class SlimToy(nn.Module):
    """Layers in a row, (B, T, C) -> (B, T, C).

    Args:
        shape: heads and channels of each layer.
        reentrant: of activation checkpointing; None for none.
    """

    def __init__(
        self,
        shape: Sequence[tuple[int, int]] = EVEN,
        seed: int = 0,
        reentrant: bool | None = None,
    ) -> None:
        super().__init__()
        self.reentrant = reentrant
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(SlimToyLayer(*units) for units in shape)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.reentrant is None:
                x = layer(x)
            else:
                x = checkpoint(layer, x, use_reentrant=self.reentrant)
        return x

    def units(self) -> list[LayerUnits]:
        return [layer.units(number) for number, layer in enumerate(self.layers)]

    def size(self) -> int:
        """How many parameters the layers have."""
        return sum(parameter.numel() for parameter in self.layers.parameters())


def slim_toy_batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """(3, 7, C)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 7, WIDTH, generator=generator).to(dtype)
