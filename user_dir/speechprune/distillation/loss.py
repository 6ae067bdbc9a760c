"""How far a student's hidden states are from its teacher's.

Source: DPHuBERT (Peng et al., Interspeech 2023): the mean L1 distance less the mean cosine
similarity, over the chosen hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Distance:
    """How far states are from each other: scalars, float32.

    Attributes:
        l1: the mean absolute difference of an entry.
        cosine: the mean cosine of the angle between the states of a frame, from -1 to 1.
    """

    l1: Tensor
    cosine: Tensor

    def loss(self, l1_weight: float = 1.0, cosine_weight: float = 1.0) -> Tensor:
        """``l1_weight * l1 - cosine_weight * cosine``: for equal states -``cosine_weight``."""
        return l1_weight * self.l1 - cosine_weight * self.cosine


def distance(
    student: Sequence[Tensor], teacher: Sequence[Tensor], padding: Tensor | None
) -> Distance:
    """The means over all states and over all frames that are not padding.

    Args:
        student, teacher: hidden states in pairs, at least one, each (T, B, C), in any precision;
            what is computed of them is float32.
        padding: bool, (B, T), True where padded; None without padding.
    """
    pairs = [_of_frames(own.float(), other.float()) for own, other in zip(student, teacher)]
    l1, cosine = (_mean(torch.stack(values), padding) for values in zip(*pairs))
    return Distance(l1, cosine)


def _of_frames(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The L1 distance and the cosine of each frame, (T, B)."""
    l1 = (student - teacher).abs().mean(-1)
    return l1, F.cosine_similarity(student, teacher, dim=-1)


def _mean(frames: Tensor, padding: Tensor | None) -> Tensor:
    """The mean of values of frames, (S, T, B); 0 if all frames are padding."""
    if padding is None:
        return frames.mean()
    heard = (~padding).sum().clamp_min(1) * len(frames)
    return frames.masked_fill(padding.T, 0.0).sum() / heard
