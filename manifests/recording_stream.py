"""Recordings that are read from the disk block by block, in a memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr

from speechprune.manifests.oddities import Loudness, Remark, to_mono
from speechprune.manifests.recording import (
    BOUND,
    ENDLESS,
    MP3_ERROR,
    BadAudio,
    open_recording,
    promised_frames,
    read_in_blocks,
    refuse_not_finite,
    truncation,
)

#: Seconds that are read at a time.
_BLOCK = 10.0


def seconds_of(path: Path) -> float:
    """How long a recording is by its header; infinite if that does not know.

    Raises:
        BadAudio: as `open_recording`, or it is longer than any stream may be.
    """
    with open_recording(path) as file:
        frames = promised_frames(file)
        if frames == ENDLESS:
            return float("inf")
        _refuse_too_long(frames, file)
        return frames / file.samplerate


def _refuse_too_long(frames: int, file: soundfile.SoundFile) -> None:
    """Raise BadAudio if samples are more than a stream may have."""
    if frames > BOUND.streamed_frames(file):
        hours = BOUND.seconds / 3600
        raise BadAudio(f"is too long for one recording: more than {hours:g} hours; cut it")


class RecordingStream:
    """A recording at some rate, block by block; what `decode_recording` finds, and not at once.

    Args:
        path: of a file, or of a slice of an archive, as for `open_recording`.
        rate: that is wanted, in Hz.

    Attributes:
        missing: what is missing of the recording, going on from its name; known once all was read.
        oddities: what is odd about its samples; known then too.
    """

    def __init__(self, path: Path, rate: int) -> None:
        self.path = path
        self.rate = rate
        self.missing = ""
        self.oddities: tuple[Remark, ...] = ()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Its samples at the wanted rate, float32 (n,), the mean of the channels.

        Raises:
            BadAudio: as `decode_recording`, once the place is reached that it is about.
        """
        with open_recording(self.path, forward=True) as file:
            same = file.samplerate == self.rate
            resampler = None if same else soxr.ResampleStream(file.samplerate, self.rate, 1)
            for block in self._decoded(file):
                yield block if resampler is None else resampler.resample_chunk(block)
            if resampler is not None:
                yield resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)

    def _decoded(self, file: soundfile.SoundFile) -> Iterator[np.ndarray]:
        """All that can be decoded, float32 (n,), at its own rate."""
        promised, loudness, done = promised_frames(file), Loudness(file.subtype), 0
        readable = min(promised, file.frames)
        block = round(_BLOCK * file.samplerate)
        while done < readable:
            wanted = min(block, readable - done)
            samples = self._read(file, done, wanted)
            refuse_not_finite(samples, done, file.samplerate)
            loudness.add(samples)
            done += len(samples)
            _refuse_too_long(done, file)
            yield to_mono(samples)
            if len(samples) < wanted:
                break
        if file.frames == ENDLESS or file.format == "MP3" and done >= (1 - MP3_ERROR) * promised:
            promised = done
        self.missing = truncation(done, promised, file.samplerate)
        self.oddities = tuple(loudness.oddities())

    def _read(self, file: soundfile.SoundFile, done: int, wanted: int) -> np.ndarray:
        """The next samples (n, channels), fewer than wanted where the file ends or is damaged."""
        try:
            samples: np.ndarray = file.read(wanted, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            reopen = partial(open_recording, self.path)
            samples = read_in_blocks(reopen, done, wanted, file.channels)
        return samples
