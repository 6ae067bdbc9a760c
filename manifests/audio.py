"""Audio files: what a recording is, and the 16 kHz FLAC that fairseq reads.

soundfile decodes (WAV, FLAC, MP3, Ogg...), soxr resamples.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from speechprune.files import sync
from speechprune.manifests.oddities import Remark, is_doubtful
from speechprune.manifests.recording import (
    BadAudio,
    decode_recording,
    ends_well,
    memory_file,
    open_recording,
    promised_frames,
)

SAMPLE_RATE = 16000
#: Samples that wav2vec 2.0's convolutions need for one frame.
SHORTEST = 400
#: How the names of files end that are still being written, or were when their process was killed.
UNFINISHED = ".partial"
#: How the names of recordings end that can be read.
AUDIO_ENDINGS = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au"}
)

_READY_FORMATS = ("WAV", "WAVEX", "FLAC")
_LARGEST_SAMPLE = 1.0 - 2.0**-15  # what 16 bits hold
#: FLAC's fastest level: files a tenth larger than by default, in a third of the time.
_FLAC_LEVEL = 0.0


class Ready(NamedTuple):
    """A recording that fairseq can read as it is: its samples, and what is odd about them."""

    frames: int
    remarks: tuple[Remark, ...]


def as_it_is(path: Path) -> Ready | None:
    """A recording that fairseq can read as it is: whole, 16 kHz mono WAV or FLAC; else None.

    The end of the file is read too, so that a truncated download is noticed.

    Raises:
        BadAudio: it is missing, unreadable, too short for a single frame, or has samples that are
            not finite numbers.
    """
    with open_recording(path) as file:
        ready = file.format in _READY_FORMATS and file.seekable() and file.channels == 1
        if not ready or file.samplerate != SAMPLE_RATE or not _is_plain(path):
            return None
        frames = _long_enough(file.frames)
        if promised_frames(file) != frames or not ends_well(file):
            return None
        return Ready(frames, decode_recording(path).check() if is_doubtful(file) else ())


def read_resampled(
    path: Path, start: float = 0.0, end: float | None = None
) -> tuple[np.ndarray, tuple[Remark, ...]]:
    """Seconds `start` to `end` of a recording: float32 (T,) at 16 kHz, and what is odd about it.

    Channels are averaged. A recording that was cut short is used with what it has.

    Raises:
        BadAudio: as `decode_recording`, or too much of it is missing.
    """
    decoded = decode_recording(path, start, end)
    remarks = decoded.check()
    return resample(decoded.samples, decoded.rate, SAMPLE_RATE), remarks


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Samples (T,) of one rate, in Hz, at another."""
    same = rate == wanted or not len(samples)
    return samples if same else soxr.resample(samples, rate, wanted)


def write_flac(path: Path, samples: np.ndarray, remarks: Sequence[Remark] = ()) -> int:
    """Write float samples (T,) as 16-bit FLAC at 16 kHz, whole or not at all; returns T.

    Louder samples than 1 are clipped.

    Args:
        remarks: kept in the file, for `read_remarks`.

    Raises:
        BadAudio: too short for a single frame, or its name is too long for a file.
        OSError: it cannot be written, as on a full disk.
    """
    _long_enough(len(samples))
    encoded = _flac(samples.clip(-1.0, _LARGEST_SAMPLE), remarks)
    # Two workers may write one clip, of two splits, at a time.
    unfinished = path.with_name(f".{os.getpid()}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(encoded)
        sync(unfinished)  # its folder follows once, when all is done
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadAudio("has too long a name for a file; rename it") from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)
    return len(samples)


def _flac(samples: np.ndarray, remarks: Sequence[Remark]) -> bytes:
    with memory_file() as encoded:
        with soundfile.SoundFile(
            encoded.fileno(),
            "w",
            SAMPLE_RATE,
            channels=1,
            subtype="PCM_16",
            format="FLAC",
            closefd=False,
            compression_level=_FLAC_LEVEL,
        ) as file:
            if remarks:
                file.comment = "\n".join(f"{remark.kind}: {remark.message}" for remark in remarks)
            file.write(samples)
        encoded.seek(0)
        return encoded.read()


def read_remarks(path: Path) -> tuple[Remark, ...]:
    """What was odd about the source of a file that `write_flac` wrote."""
    with open_recording(path) as file:
        parts = (line.partition(": ") for line in file.comment.splitlines())
        return tuple(Remark(kind, message) for kind, _, message in parts)


def mark_made_from(path: Path, source: Path) -> None:
    """Give a converted file its source's time stamp, to tell later whether that has changed."""
    stamp = os.stat(source).st_mtime_ns
    os.utime(path, ns=(stamp, stamp))


def is_made_from(path: Path, source: Path) -> bool:
    """Whether `path` was converted from `source` as it is now."""
    try:
        return os.stat(path).st_mtime_ns == os.stat(source).st_mtime_ns
    except OSError:  # it is told when it is read
        return False


def _is_plain(path: Path) -> bool:
    """Whether fairseq takes a path for a file, not for `archive:offset:size`."""
    return path.suffix in (".wav", ".flac") or ":" not in str(path)


def _long_enough(frames: int) -> int:
    if frames < SHORTEST:
        raise BadAudio(f"is too short: {frames} samples at 16 kHz, less than {SHORTEST}")
    return frames
