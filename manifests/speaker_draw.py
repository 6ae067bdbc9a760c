"""Hours of speech drawn at random, no speaker in two splits."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable, Iterator, Mapping, Protocol, Sequence, TypeVar

import numpy as np

from speechprune.errors import UserError
from speechprune.manifests.lines import open_text
from speechprune.manifests.recording import BadAudio, open_recording

_ROUNDING = 1e-6  # seconds


class Spoken(Protocol):
    """Something said by somebody."""

    @property
    def clip(self) -> str:
        """The recording's file name."""

    @property
    def speaker(self) -> str:
        """Who said it."""


AnySpoken = TypeVar("AnySpoken", bound=Spoken)


class Durations:
    """Seconds of each clip of a Common Voice folder: listed in it, or else measured.

    `clip_durations.tsv`, called `times.txt` in release 14, has a file name and milliseconds a line.
    """

    def __init__(self, root: Path) -> None:
        self._clips = root / "clips"
        self._listed: dict[str, float] = {}
        for name in ("clip_durations.tsv", "times.txt"):
            if (root / name).exists():
                self._read(root / name)
                break

    def _read(self, path: Path) -> None:
        with open_text(path) as file:
            for line in file:
                name, _, milliseconds = line.strip().replace("\t", " ").rpartition(" ")
                if milliseconds.isdigit():
                    self._listed[name.strip()] = int(milliseconds) / 1000

    def __getitem__(self, clip: str) -> float:
        if clip not in self._listed:
            try:
                with open_recording(self._clips / clip) as file:
                    self._listed[clip] = file.frames / file.samplerate
            except BadAudio:
                return 0.0  # left out later, with its reason
        return self._listed[clip]


def draw_hours(
    spoken: Sequence[AnySpoken],
    hours: Mapping[str, float],
    durations: Durations,
    seed: int,
) -> dict[str, list[AnySpoken]]:
    """Splits of at most the hours asked, each by speakers of its own, in the order asked.

    Speakers come in a random order, and what each said in a random order.

    Raises:
        UserError: there is not enough speech.
    """
    by_speaker: dict[str, list[AnySpoken]] = {}
    for one in sorted(spoken, key=lambda one: one.clip):
        by_speaker.setdefault(one.speaker, []).append(one)
    random = np.random.default_rng(seed)
    names = sorted(by_speaker)
    speakers = iter([names[i] for i in random.permutation(len(names))])
    drawn: dict[str, list[AnySpoken]] = {}
    for split, share in hours.items():
        said = (
            one
            for speaker in speakers  # continues after the last speaker of the split before
            for one in _shuffled(by_speaker[speaker], random)
        )
        drawn[split] = list(_fill(said, 3600 * share, durations, split))
    return drawn


def _shuffled(said: list[AnySpoken], random: np.random.Generator) -> list[AnySpoken]:
    return [said[i] for i in random.permutation(len(said))]


def _fill(
    said: Iterable[AnySpoken], seconds: float, durations: Durations, split: str
) -> Iterator[AnySpoken]:
    """What comes first, until the next would be too much."""
    left = seconds
    for one in said:
        left -= durations[one.clip]
        if left < -_ROUNDING:
            return
        yield one
    if left < _ROUNDING:
        return
    raise UserError(
        f"only {(seconds - left) / 3600:.2f} of {seconds / 3600:g} hours are left for {split} by "
        "speakers who are in no other split; ask for less"
    )
