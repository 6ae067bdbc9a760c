"""Long recordings as windows that a model can hear: cut at silence, with what lies around.

Each window begins and ends with audio that belongs to its neighbours. Only the frames between are
taken of it, and those of all windows together are the frames of the recording: none is lost, and
none is there twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from speechprune.decoding.emissions import EmissionSource
from speechprune.decoding.timing import FrameTimes

#: Seconds that are listened to for a pause at once.
_PAUSE = 0.2


class Window(NamedTuple):
    """A part of a recording, with audio before and after it.

    Attributes:
        samples: float32 (n,), at most those of a `Cutting`.
        before: frames that belong to the window before.
        frames: of the part itself; None for all that follow.
    """

    samples: np.ndarray
    before: int
    frames: int | None


@dataclass(frozen=True)
class Cutting:
    """How long windows are, in seconds.

    Attributes:
        shortest: part of a window that is its own, at least, but for the last one.
        longest: the same, at most: the cut is where it is most silent between.
        context: audio on either side of it that the model hears beside.
    """

    shortest: float = 12.0
    longest: float = 20.0
    context: float = 0.5


CUTTING = Cutting()


def windows(blocks: Iterable[np.ndarray], at: FrameTimes, cutting: Cutting) -> Iterator[Window]:
    """The windows of a recording, one after the other; no more of it is kept than one of them.

    Args:
        blocks: its samples, float32 (n,) each, at the rate of ``at``.
        at: where the frames of the model lie.
    """
    shortest, longest, context = (
        round(seconds * at.rate / at.stride) * at.stride
        for seconds in (cutting.shortest, cutting.longest, cutting.context)
    )
    held = np.empty(0, dtype=np.float32)
    before = 0  # samples of the window before, at the beginning of those that are held
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= before + longest + context:
            own = shortest + _most_silent(held[before + shortest : before + longest], at)
            end = before + own
            yield Window(held[: end + context], before // at.stride, own // at.stride)
            kept = min(context, end)
            held, before = held[end - kept :], kept
    yield Window(held, before // at.stride, None)


def _most_silent(samples: np.ndarray, at: FrameTimes) -> int:
    """Where the loudness around is least, as a number of samples; the last of equal places.

    Args:
        samples: float32 (n,), n being a multiple of the stride, as is what is returned.
    """
    energies = np.square(samples.reshape(-1, at.stride), dtype=np.float64).sum(axis=1)
    width = max(1, round(_PAUSE * at.rate / at.stride))
    around = np.convolve(energies, np.ones(width), mode="valid")
    place = len(around) - 1 - int(around[::-1].argmin())
    return (place + width // 2) * at.stride


def emissions_of(source: EmissionSource, found: Iterable[Window]) -> Iterator[np.ndarray]:
    """The emissions of a recording by its windows, float32 (T, V) of each one's own frames."""
    for window in found:
        (heard,) = source.emissions([window.samples])
        end = None if window.frames is None else window.before + window.frames
        yield heard[window.before : end]
