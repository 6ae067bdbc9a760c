"""Emissions: what a CTC model makes of audio, before any search; and where their frames lie.

Emissions are the logarithms of probabilities, float32 (T, V): T frames and V symbols. Whatever
gives them for audio is an `EmissionSource`, and every search reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from speechprune.decoding.inference import (
    audible,
    best_device,
    no_numbers,
    sample_rate,
    scores_of,
)
from speechprune.decoding.symbols import OutputSymbols, symbols_of
from speechprune.decoding.timing import FrameTimes
from speechprune.models.loading import LoadedRecogniser


class EmissionSource(Protocol):
    """A CTC model that can be searched, of whatever kind of file.

    Attributes:
        path: of the file.
        symbols: of the outputs.
        rate: what it listens at, in Hz.
    """

    path: Path
    symbols: OutputSymbols
    rate: int

    def frame_count(self, samples: int) -> int:
        """T, the frames of so many samples by themselves; 0 if they are too few."""

    def emissions(self, audio: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Emissions of each recording of one batch.

        Args:
            audio: float32 recordings of shape (samples,) at `rate`.

        Returns:
            Emissions, float32 (T, V), of each one's own frames; (0, V) where it is too short.
        """


class ModelEmissions:
    """The emissions of the model in a checkpoint, a bank or an ONNX file; an `EmissionSource`."""

    def __init__(self, loaded: LoadedRecogniser) -> None:
        self.loaded = loaded
        self.path = loaded.path
        self.symbols = symbols_of(loaded.dictionary)
        self.rate = sample_rate(loaded)
        loaded.model.to(best_device())

    def frame_count(self, samples: int) -> int:
        """As `EmissionSource`."""
        return self.loaded.frame_count(samples)

    def emissions(self, audio: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `EmissionSource`; raises UserError if they are not finite."""
        found = [np.empty((0, len(self.symbols.names)), dtype=np.float32)] * len(audio)
        heard = audible(self.loaded, audio)
        if heard:
            scores, _ = scores_of(self.loaded, [audio[i] for i in heard])
            scores = scores.float().log_softmax(-1).cpu()
            for place, index in enumerate(heard):
                own = scores[: self.frame_count(len(audio[index])), place]
                if not own.isfinite().all():
                    raise no_numbers(self.loaded)
                found[index] = own.numpy()
        return found


def frame_times(source: EmissionSource) -> FrameTimes:
    """Where a model's frames lie: what the first frame takes, and what the second one adds."""
    receptive = _least(lambda samples: source.frame_count(samples) >= 1)
    stride = _least(lambda samples: source.frame_count(samples) >= 2) - receptive
    return FrameTimes(source.rate, stride, receptive)


def _least(is_enough: Callable[[int], bool]) -> int:
    """The smallest number that is enough, as all above it are."""
    above = 1
    while not is_enough(above):
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (below, middle) if is_enough(middle) else (middle, above)
    return above
