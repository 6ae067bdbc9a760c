"""When words were said, in seconds: where the frames of a model lie, and the words on them."""

from __future__ import annotations

from dataclasses import dataclass

from speechprune.decoding.hypothesis import Hypothesis
from speechprune.decoding.symbols import OutputSymbols


@dataclass(frozen=True)
class FrameTimes:
    """Where frames lie in time.

    A frame stands for `stride` samples, which lie in the middle of the `receptive` ones that its
    convolutions hear.

    Attributes:
        rate: samples per second.
        stride: samples between the beginnings of two frames.
        receptive: samples that a frame is made of.
    """

    rate: int
    stride: int
    receptive: int

    def seconds(self, frame: int) -> float:
        """Where a frame begins, and the one before it ends."""
        return ((self.receptive - self.stride) / 2 + frame * self.stride) / self.rate


@dataclass(frozen=True)
class TimedWord:
    """A word, or a unit, and when it was said, in seconds from the beginning of the recording.

    CTC emits most symbols in one frame, early or late in their sound: the times tell where a word
    is, and not to the hundredth where it begins.
    """

    text: str
    start: float
    end: float


def timed_words(
    hypothesis: Hypothesis, symbols: OutputSymbols, at: FrameTimes
) -> tuple[TimedWord, ...]:
    """The words of a hypothesis; none, if its search was not asked for the frames of tokens."""
    spans = hypothesis.spans
    if not spans:
        return ()
    return tuple(
        TimedWord(word, at.seconds(spans[place[0]][0]), at.seconds(spans[place[-1]][1]))
        for word, place in zip(hypothesis.words, symbols.words(hypothesis.tokens))
    )
