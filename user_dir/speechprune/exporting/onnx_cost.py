"""Multiply-adds of a CTC model for any length, as numbers that a file can hold."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

#: Lengths that a model is counted at, in seconds: as many as a parabola takes.
_LENGTHS = (1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Costs:
    """What the parts of a model take.

    Attributes:
        convolutions: of the front end: kernel, stride and multiply-adds for each frame.
        fixed, of_frame, of_pair: multiply-adds of all else, for a recording, for each of its
            frames, and for each pair of frames.
    """

    convolutions: tuple[tuple[int, int, int], ...]
    fixed: int
    of_frame: int
    of_pair: int

    @property
    def samples_per_frame(self) -> int:
        """From the beginning of a frame to that of the next."""
        return prod(stride for _, stride, _ in self.convolutions)

    def frame_counts(self, samples: int) -> list[int]:
        """The frames of so many samples after each convolution."""
        counts = []
        for kernel, stride, _ in self.convolutions:
            samples = max(0, samples - kernel + stride) // stride
            counts.append(samples)
        return counts

    def multiply_adds(self, samples: int) -> int:
        """Those of one recording of so many samples."""
        counts = self.frame_counts(samples)
        front = sum(count * each[2] for count, each in zip(counts, self.convolutions))
        frames = counts[-1]
        return front + self.fixed + frames * (self.of_frame + frames * self.of_pair)


def costs_of(encoder: Any, head: nn.Linear) -> Costs:
    """Those of an encoder of speech without masks, and of an output layer for each of its frames.

    Args:
        encoder: of a family whose front end is wav2vec 2.0's; it pads no frames to a multiple.
    """
    from speechprune.backbones.cost import encoder_cost

    convolutions = []
    for block in encoder.feature_extractor.conv_layers:
        weight = block[0].weight
        (kernel,), (stride,) = block[0].kernel_size, block[0].stride
        convolutions.append((kernel, stride, weight.numel()))
    front = Costs(tuple(convolutions), 0, 0, 0)
    counted = [encoder_cost(encoder, seconds) for seconds in _LENGTHS]
    places = [(each.frames, each.multiply_adds) for each in counted]
    rest = [
        (frames, found - front.multiply_adds(each.length.samples))
        for (frames, found), each in zip(places, counted)
    ]
    fixed, of_frame, of_pair = _parabola(rest)
    return Costs(front.convolutions, fixed, of_frame + head.weight.numel(), of_pair)


def _parabola(points: list[tuple[int, int]]) -> tuple[int, int, int]:
    """The coefficients of the parabola through three points, which are whole numbers."""
    (x0, y0), (x1, y1), (x2, y2) = points
    first, second = Fraction(y1 - y0, x1 - x0), Fraction(y2 - y1, x2 - x1)
    square = (second - first) / (x2 - x0)
    linear = first - square * (x0 + x1)
    return round(y0 - x0 * (linear + square * x0)), round(linear), round(square)
