"""Whether a model that was written gives what its source gives, on some seconds of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE

#: Of the recordings that are compared, in samples at any rate: with strides of 320 they have odd
#: and even counts of frames, and end within a frame or just where one does.
LENGTHS = (4000, 4320, 16000, 16239, 32080, 41337)
#: By how much outputs may differ: far less than moves a decision, and more than rounding does.
TOLERANCE = 1e-4

#: Of the noise where it is loudest: so loud that nothing shows of the 1e-5 or 1e-7 that libraries
#: add to a variance before they divide by it.
_VARIANCE = 100.0
#: By how many decibels it fades, and how often in a second: about as speech does. Noise of one
#: loudness does not tell what a model in too few bits makes of what is quiet.
_FADING, _FREQUENCY = 60.0, 2.0

#: What a model makes of a batch of recordings, each float32 of (samples,): of each its outputs,
#: such as logits of (frames, symbols) without frames of padding.
Hear = Callable[[Sequence[np.ndarray]], Sequence[Tensor]]


def noise(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[np.ndarray]:
    """Recordings of noise that fades and swells, float32 (samples,), the same in each process."""
    generator = np.random.default_rng(seed)
    return [_noise(generator, length) for length in lengths]


def _noise(generator: np.random.Generator, length: int) -> np.ndarray:
    faded = _FADING * np.sin(np.pi * _FREQUENCY * np.arange(length) / SAMPLE_RATE) ** 2
    loudness = _VARIANCE**0.5 * 10 ** (-faded / 20)
    return (loudness * generator.standard_normal(length)).astype(np.float32)


def heard(hear: Hear, lengths: Sequence[int] = LENGTHS, *, together: bool = False) -> list[Tensor]:
    """What a model makes of recordings of noise.

    Args:
        lengths: of the recordings, in samples.
        together: hear all of them in one padded batch, instead of each by itself.
    """
    audio = noise(lengths)
    batches = [audio] if together else [[each] for each in audio]
    return [outputs for batch in batches for outputs in hear(batch)]


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference between outputs of two models; infinity if they have other shapes, or
    are not finite."""
    return max(_difference(one, other) for one, other in zip(ours, theirs))


def agreement(ours: Sequence[Tensor], theirs: Sequence[Tensor], blank: int = 0) -> float:
    """The share of frames of which two models prefer the same symbol: of those of which one prefers
    another than the blank, which is the best one of most frames. If there are none, of all.

    Args:
        ours, theirs: scores of each recording, (T, symbols), in the same shapes.
        blank: the number of the blank.
    """
    one, other = (torch.cat([scores.argmax(-1) for scores in each]) for each in (ours, theirs))
    heard = (one != blank) | (other != blank)
    counted = heard if heard.any() else torch.ones_like(heard)
    return float((one == other)[counted].double().mean())


def refuse_difference(path: object, difference: float, tolerance: float, *, what: str) -> None:
    """Raise UserError if outputs differ by more than is tolerated.

    Args:
        path: of the source.
        what: what was made of it, such as "the ONNX file".
    """
    if difference <= tolerance:
        return
    how = f"by {difference:.1e}" if math.isfinite(difference) else "in their shapes, or are NaN"
    raise UserError(
        f"{path}: the outputs of {what} differ from those of the source {how}; at most "
        f"{tolerance:.0e} is allowed (--tolerance), so nothing was written"
    )


def _difference(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return math.inf
    found = float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    return found if math.isfinite(found) else math.inf
