"""Audio files: what a recording is, and the 16 kHz FLAC that fairseq reads.

soundfile decodes (WAV, FLAC, MP3, Ogg...), soxr resamples.
"""

from __future__ import annotations

import errno
import io
import os
import re
from pathlib import Path
from typing import Union

import numpy as np
import soundfile
import soxr

from speechprune.files import sync

SAMPLE_RATE = 16000
#: Samples that wav2vec 2.0's convolutions need for one frame.
SHORTEST = 400
#: How the names of files end that are still being written, or were when their process was killed.
UNFINISHED = ".partial"

_READY_FORMATS = ("WAV", "WAVEX", "FLAC")
_LARGEST_SAMPLE = 1.0 - 2.0**-15  # what 16 bits hold
_MP3_ERROR = 0.1  # share of the samples
#: FLAC's fastest level: files a tenth larger than by default, in a third of the time.
_FLAC_LEVEL = 0.0


class BadAudio(Exception):
    """A recording that cannot be used; the message says why, without the path."""


def frames_if_ready(path: Path) -> int | None:
    """Samples of a recording that fairseq can read as it is: 16 kHz mono WAV or FLAC; else None.

    The end of the file is read too, so that a truncated download is noticed.

    Raises:
        BadAudio: it is missing, unreadable, truncated, or too short for a single frame.
    """
    with _open(path) as file:
        ready = file.format in _READY_FORMATS and file.channels == 1
        if not ready or file.samplerate != SAMPLE_RATE:
            return None
        if file.frames:
            _read(file, file.frames - 1, 1)
        return _long_enough(file.frames)


def read_resampled(path: Path, start: float = 0.0, end: float | None = None) -> np.ndarray:
    """Seconds `start` to `end` of a recording: float32 (T,) at 16 kHz; channels are averaged.

    Raises:
        BadAudio: it is missing, unreadable, truncated, or ends before `end`.
    """
    with _open(path) as file:
        first = round(start * file.samplerate)
        last = file.frames if end is None else round(end * file.samplerate)
        # Some encoders' headers, and transcribers' clocks, are off by a few milliseconds.
        late = last > file.frames + file.samplerate // 10
        if late or first and first >= file.frames:
            wanted = end if late else start
            raise BadAudio(f"ends after {file.frames / file.samplerate:.2f} s, before {wanted:g} s")
        samples = _read(file, first, min(last, file.frames) - first)
        rate = file.samplerate
    mono = to_mono(samples)
    if not np.isfinite(mono).all():
        raise BadAudio("has samples that are not numbers")
    return mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE)


def to_mono(samples: np.ndarray) -> np.ndarray:
    """The mean (T,) of the channels of samples (T, channels)."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def write_flac(path: Path, samples: np.ndarray) -> int:
    """Write float samples (T,) as 16-bit FLAC at 16 kHz, whole or not at all; returns T.

    Louder samples than 1 are clipped.

    Raises:
        BadAudio: too short for a single frame.
        OSError: it cannot be written, as on a full disk.
    """
    _long_enough(len(samples))
    encoded = io.BytesIO()
    clipped = samples.clip(-1.0, _LARGEST_SAMPLE)
    soundfile.write(
        encoded,
        clipped,
        SAMPLE_RATE,
        format="FLAC",
        subtype="PCM_16",
        compression_level=_FLAC_LEVEL,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two workers may write one clip, of two splits, at a time.
    partial = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        partial.write_bytes(encoded.getbuffer())
        sync(partial)  # its folder follows once, when all is done
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return len(samples)


def mark_made_from(path: Path, source: Path) -> None:
    """Give a converted file its source's time stamp, to tell later whether that has changed."""
    stamp = os.stat(source).st_mtime_ns
    os.utime(path, ns=(stamp, stamp))


def is_made_from(path: Path, source: Path) -> bool:
    """Whether `path` was converted from `source` as it is now."""
    try:
        return os.stat(path).st_mtime_ns == os.stat(source).st_mtime_ns
    except FileNotFoundError:
        return False


def source_of(path: Path) -> Union[str, io.BytesIO]:
    """What soundfile opens: the path, or the bytes that fairseq's `archive.zip:offset:size` means.

    Raises OSError if it is not there.
    """
    stored = re.fullmatch(r"(.+\.zip):(\d+):(\d+)", str(path))
    if stored is None:
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return str(path)
    archive, offset, size = stored.groups()
    with open(archive, "rb") as file:
        file.seek(int(offset))
        return io.BytesIO(file.read(int(size)))


def _open(path: Path) -> soundfile.SoundFile:
    try:
        os.stat(path)
        file = soundfile.SoundFile(str(path))
    except OSError as error:
        raise BadAudio(f"cannot be opened: {error.strerror}") from error
    except (soundfile.LibsndfileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        # What libsndfile says of a file that is only called MP3.
        reason = "format not recognised" if "does not exist" in reason else reason
        raise BadAudio(f"is not readable audio: {reason}") from error
    # libsndfile makes do with less data than a WAV promises, and only notes it.
    if file.format in ("WAV", "WAVEX") and re.search(r"data : \d+ \(should be", file.extra_info):
        raise BadAudio("is truncated: its header promises more")
    return file


def _read(file: soundfile.SoundFile, first: int, count: int) -> np.ndarray:
    """Samples (count, channels) from `first` on."""
    try:
        if first:
            file.seek(first)
        samples = file.read(count, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise BadAudio(f"is damaged audio: {error.error_string.rstrip('.')}") from error
    # Headers of MP3 only estimate the length.
    missing = 0 if file.format in _READY_FORMATS else file.frames * _MP3_ERROR
    if len(samples) < count - missing:
        raise BadAudio(f"is truncated: {first + len(samples)} of {first + count} samples")
    return samples


def _long_enough(frames: int) -> int:
    if frames < SHORTEST:
        raise BadAudio(f"is too short: {frames} samples at 16 kHz, less than {SHORTEST}")
    return frames
