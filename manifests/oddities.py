"""What is odd about recordings that are used all the same, gathered from their samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import soundfile

#: The kinds of remarks.
CUT_SHORT, INTEGER_SCALE, ANTIPHASE = "cut short", "integer scale", "antiphase"

_FLOATS = ("FLOAT", "DOUBLE")
_LOUDEST = 16.0  # float audio may be a little louder than 1; that of integers is in the hundreds
_QUIET = 0.03  # of the loudest channel: their mean, if they cancel each other


class Remark(NamedTuple):
    """What is odd about a recording that is used all the same; `message` goes on from its name."""

    kind: str
    message: str


def is_doubtful(file: soundfile.SoundFile) -> bool:
    """Whether its samples need a look, which `decode_recording` takes, at more than the header."""
    return file.subtype in _FLOATS or file.channels > 1


def to_mono(samples: np.ndarray) -> np.ndarray:
    """The mean (T,) of the channels of samples (T, channels)."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


class Loudness:
    """What makes samples doubtful, gathered over a recording or over its parts in order.

    Args:
        subtype: the form in which their file holds them.
    """

    def __init__(self, subtype: str) -> None:
        self._may_be_loud = subtype in _FLOATS
        self._loudest = self._mono = 0.0
        self._channels: np.ndarray | None = None

    def add(self, samples: np.ndarray) -> None:
        """Take more samples (T, channels) into account."""
        if not len(samples):
            return
        if self._may_be_loud:
            self._loudest = max(self._loudest, float(np.abs(samples).max()))
        if samples.shape[1] > 1:
            norms = np.linalg.norm(samples, axis=0)
            self._channels = norms if self._channels is None else np.hypot(self._channels, norms)
            self._mono = float(np.hypot(self._mono, np.linalg.norm(to_mono(samples))))

    def oddities(self) -> Iterator[Remark]:
        """What is odd about them."""
        if self._loudest > _LOUDEST:
            message = (
                f"has float samples up to {self._loudest:g}, as if they were integers; bring them "
                "to 1"
            )
            yield Remark(INTEGER_SCALE, message)
        if self._channels is not None:
            loudness = float(self._channels.max())
            if loudness and self._mono < _QUIET * loudness:
                message = (
                    "has channels that cancel each other: their mean is silence; keep one of them"
                )
                yield Remark(ANTIPHASE, message)
