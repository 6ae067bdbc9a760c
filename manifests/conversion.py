"""One clip of a corpus: its label made, its audio checked, or converted to 16 kHz FLAC."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Sequence

from speechprune.manifests.audio import (
    Ready,
    as_it_is,
    is_made_from,
    mark_made_from,
    read_remarks,
    read_resampled,
    write_flac,
)
from speechprune.manifests.corpus import Clip, Labels
from speechprune.manifests.oddities import Remark
from speechprune.manifests.recording import BadAudio


class Outcome(NamedTuple):
    """What became of a clip.

    Attributes:
        frames: samples at 16 kHz; 0 if it is left out.
        text: its label.
        converted: whether its audio is a new file.
        problem: why it is left out, or "".
        remarks: what is odd about its audio, which is used all the same.
    """

    frames: int
    text: str
    converted: bool
    problem: str
    remarks: tuple[Remark, ...] = ()


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
            ready = None if clip.segment else as_it_is(self.root / clip.source)
            frames, remarks = ready or self._convert(clip)
            return Outcome(frames, text, ready is None, "", remarks)
        except BadAudio as error:
            return Outcome(0, "", False, str(error))

    def _convert(self, clip: Clip) -> Ready:
        source, target = self.root / clip.source, self.audio / f"{clip.name}.flac"
        if is_made_from(target, source):  # by a preparation that was interrupted
            done = as_it_is(target)
            assert done is not None
            return Ready(done.frames, read_remarks(target))
        span = (clip.segment.start, clip.segment.end) if clip.segment else ()
        samples, remarks = read_resampled(source, *span)
        frames = write_flac(target, samples, remarks)
        mark_made_from(target, source)
        return Ready(frames, remarks)
