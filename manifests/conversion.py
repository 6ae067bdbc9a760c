"""One clip of a corpus: its label made, its audio checked, or converted to 16 kHz FLAC."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Sequence

from speechprune.manifests.audio import (
    BadAudio,
    frames_if_ready,
    is_made_from,
    mark_made_from,
    read_resampled,
    write_flac,
)
from speechprune.manifests.corpus import Clip, Labels


class Outcome(NamedTuple):
    """What became of a clip.

    Attributes:
        frames: samples at 16 kHz; 0 if it is left out.
        text: its label.
        converted: whether its audio is a new file.
        problem: why it is left out, or "".
    """

    frames: int
    text: str
    converted: bool
    problem: str


@dataclass(frozen=True)
class Conversion:
    """What every worker has to know.

    Attributes:
        root: the folder that the sources of clips start from.
        audio: the folder for converted audio.
        labels: how transcripts become labels.
    """

    root: Path
    audio: Path
    labels: Labels

    def run(self, clips: Sequence[Clip]) -> tuple[list[Outcome], Counter[str]]:
        """What became of some clips, and how often which character or tag was dropped.

        Raises OSError if audio cannot be written.
        """
        texts, dropped = self.labels.label([clip.transcript for clip in clips])
        return [self._handle(clip, text) for clip, text in zip(clips, texts)], dropped

    def _handle(self, clip: Clip, text: str) -> Outcome:
        if clip.problem:
            return Outcome(0, "", False, clip.problem)
        if not text:
            problem = f"has nothing left of its transcript {clip.transcript!r}"
            return Outcome(0, "", False, problem)
        try:
            ready = None if clip.segment else frames_if_ready(self.root / clip.source)
            if ready is not None:
                return Outcome(ready, text, False, "")
            return Outcome(self._convert(clip), text, True, "")
        except BadAudio as error:
            return Outcome(0, "", False, str(error))

    def _convert(self, clip: Clip) -> int:
        source, target = self.root / clip.source, self.audio / f"{clip.name}.flac"
        if is_made_from(target, source):  # by a preparation that was interrupted
            done = frames_if_ready(target)
            assert done is not None
            return done
        span = (clip.segment.start, clip.segment.end) if clip.segment else ()
        frames = write_flac(target, read_resampled(source, *span))
        mark_made_from(target, source)
        return frames
