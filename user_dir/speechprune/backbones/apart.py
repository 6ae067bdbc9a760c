"""Hearing each utterance of a padded batch as if it were alone.

Some modules of fairseq's encoders read padding: the norm over time in the first convolution of base
models, and positional convolutions that follow another one or a batch norm. What they make of an
utterance then depends on what shares its batch. Here they are given the utterance's own frames,
while the batch stays one for the convolutions and the transformer, where padding does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class OwnFrames(nn.Module):
    """A norm over time, run over each utterance's own frames; its padding becomes zero.

    Args:
        norm: takes (B, C, T) and normalises over T.
        frames: of each utterance.
    """

    def __init__(self, norm: nn.Module, frames: Sequence[int]) -> None:
        super().__init__()
        self.norm, self.frames = norm, frames

    def forward(self, batch: Tensor) -> Tensor:
        normalised = torch.zeros_like(batch)
        for index, count in enumerate(self.frames):
            if count:
                own = slice(index, index + 1)
                normalised[own, :, :count] = self.norm(batch[own, :, :count])
        return normalised


@contextmanager
def norms_apart(block: nn.Sequential, frames: Sequence[int]) -> Iterator[None]:
    """Within it, the norms over time directly in ``block`` see each utterance's own frames.

    Args:
        frames: of each utterance, as many as the block makes of it.
    """
    norms = {
        place: module for place, module in enumerate(block) if isinstance(module, nn.GroupNorm)
    }
    for place, norm in norms.items():
        block[place] = OwnFrames(norm, frames)
    try:
        yield
    finally:
        for place, norm in norms.items():
            block[place] = norm


@contextmanager
def padding_silenced(module: nn.Module, frames: Sequence[int]) -> Iterator[None]:
    """Within it, ``module`` is given zeros for padding, as at the end of an utterance alone.

    Args:
        module: takes (B, C, T).
        frames: of each utterance.
    """
    counts = torch.tensor(frames)

    def silence(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (batch,) = inputs
        own = torch.arange(batch.shape[2]) < counts[:, None]
        return (batch.masked_fill(~own[:, None].to(batch.device), 0),)

    handle = module.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def uncropped(model: Any) -> Iterator[None]:
    """Within it, fairseq keeps the last frames of a batch: how many it would crop to reach a
    multiple depends on the longest utterance."""
    multiple = getattr(model, "crop_seq_to_multiple", 1)
    if multiple == 1:
        yield
        return
    model.crop_seq_to_multiple = 1
    try:
        yield
    finally:
        model.crop_seq_to_multiple = multiple
