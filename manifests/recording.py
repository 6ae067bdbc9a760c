"""Recordings as libsndfile finds them: opened, decoded, and asked what is wrong with them."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from speechprune.manifests.oddities import CUT_SHORT, Loudness, Remark, to_mono

_Opener = Callable[[], soundfile.SoundFile]

#: Share of a recording that must be there for it to be used.
ENOUGH = 0.95

ENDLESS = (1 << 63) - 1  # libsndfile's number of samples for FLAC of unknown length
MP3_ERROR = 0.1  # share of the samples: headers of MP3 only estimate the length
_BLOCK = 4096  # samples, read at a time where a recording is damaged
#: fairseq's `archive.zip:offset:size`; a file has fewer bytes than 18 digits can say.
_STORED = re.compile(r"(.+\.zip):(\d{1,18}):(\d{1,18})")
#: Where libsndfile notes that a header promises more bytes, or samples, than there are.
_PROMISED = re.compile(
    r"^ *(?:data|SSND|BODY|Data Size|riff) *: (?P<promised>\d+) \(should be (?P<found>\d+)\)"
    r"|frame count (?P<found64>\d+) does not match value from 'ds64' chunk of (?P<promised64>\d+)",
    re.MULTILINE,
)
_NIST_HEADER = 1024  # bytes
#: What libsndfile finds in a WAV whose writer never came to tell its length.
_UNCOUNTED = re.compile(r"^data : 0$\s+^\*\*\* Unknown chunk marker", re.MULTILINE)
#: What programs that write to a pipe put for a number of bytes that they do not know yet.
_UNKNOWN_SIZES = (range(0x7FFFE000, 0x80000001), range(0xFFFFF000, 0x100000000))


class BadAudio(Exception):
    """A recording that cannot be used; the message says why, without the path."""


class MissingAudio(BadAudio):
    """A recording that is not there."""


class Bound(NamedTuple):
    """What one recording may hold, values of all channels and seconds; told before it is decoded.

    A few bytes of FLAC can stand for any amount of silence, and of a low rate even more is made.
    """

    values: int
    seconds: float

    def frames(self, file: soundfile.SoundFile) -> int:
        """The most samples that a file may have that is held in memory."""
        return min(self.values // file.channels, self.streamed_frames(file))

    def streamed_frames(self, file: soundfile.SoundFile) -> int:
        """The most samples that a file may have of which one block at a time is held."""
        return round(self.seconds * file.samplerate)


#: 2 GiB while it is decoded, and no more at 16 kHz.
BOUND = Bound(1 << 29, 8 * 3600.0)


@dataclass(frozen=True)
class Decoded:
    """What a recording, or a part of it, holds.

    Attributes:
        samples: float32 (T,), the mean of the channels.
        rate: sample rate in Hz.
        promised: samples that the header promises; T if all are there.
        damaged: whether decoding failed before the end that libsndfile itself sees. Otherwise
            every reader, fairseq's too, gets the same T samples.
        oddities: what is odd about the samples.
    """

    samples: np.ndarray
    rate: int
    promised: int
    damaged: bool
    oddities: tuple[Remark, ...]

    @property
    def missing(self) -> str:
        """What is missing of the recording, going on from its name; "" if nothing is."""
        return truncation(len(self.samples), self.promised, self.rate)

    def check(self) -> tuple[Remark, ...]:
        """All that is odd. Raises BadAudio if less than `ENOUGH` of the recording is there."""
        if len(self.samples) < ENOUGH * self.promised:
            raise BadAudio(self.missing)
        cut = (Remark(CUT_SHORT, self.missing),) if self.missing else ()
        return cut + self.oddities


class _Forward(soundfile.SoundFile):
    """A file that is read from its beginning to its end.

    soundfile seeks after each read where it can, which changes what MP3 decodes to.
    """

    def seekable(self) -> bool:
        return False


def open_recording(path: Path, *, forward: bool = False) -> soundfile.SoundFile:
    """Open a file, or the slice of an archive that fairseq's `archive.zip:offset:size` means.

    Args:
        forward: it will be read in blocks, from its beginning to its end.

    Raises:
        MissingAudio: there is no such file.
        BadAudio: it is not audio, or a slice that does not lie within its archive.
    """
    with _reasons():
        stored = _stored(path)
        if stored:
            return _open_memory(_slice(stored), forward)
        _size_of_file(path)
        # soundfile encodes a string strictly, and a name need not be text.
        return _open(os.fsencode(path), forward)


def promised_frames(file: soundfile.SoundFile) -> int:
    """Samples that the header promises; libsndfile itself counts those that are there.

    A header that does not know the length, written through a pipe, promises what is there.
    """
    if file.format == "NIST":
        return max(int(file.frames), _nist_frames(file.name))
    note = _PROMISED.search(file.extra_info)
    if note is None:
        return int(file.frames)
    promised = int(note["promised"] or note["promised64"])
    found = int(note["found"] or note["found64"])
    if any(promised in sizes for sizes in _UNKNOWN_SIZES):
        return int(file.frames)
    if not found:  # as if of 16 bits
        return promised // (2 * file.channels)
    return max(int(file.frames), round(file.frames * promised / found))


def _nist_frames(source: bytes | int) -> int:
    """Samples that the header of a SPHERE file promises, of which libsndfile says nothing."""
    if isinstance(source, int):
        header = os.pread(source, _NIST_HEADER, 0)
    else:
        with open(source, "rb") as file:
            header = file.read(_NIST_HEADER)
    count = re.search(rb"^sample_count -i (\d{1,15})$", header, re.MULTILINE)
    return int(count[1]) if count else 0


def truncation(found: int, promised: int, rate: int) -> str:
    """How many of the samples that were promised are there; "" if all are."""
    if found >= promised:
        return ""
    return f"is truncated: {found / rate:.2f} of {promised / rate:.2f} s are there"


def ends_well(file: soundfile.SoundFile) -> bool:
    """Whether the last sample that the file counts can be read."""
    try:
        file.seek(max(0, file.frames - 1))
        return len(file.read(1)) == min(1, file.frames)
    except soundfile.LibsndfileError:
        return False


def decode_recording(path: Path, start: float = 0.0, end: float | None = None) -> Decoded:
    """Seconds `start` to `end` of a recording, or as much of them as is there.

    Raises:
        BadAudio: it cannot be opened, is said to end before `start` or `end`, is too long, or has
            samples that are not finite numbers.
    """
    return _decode(partial(open_recording, path), start, end, BOUND)


def decode_memory(content: bytes, bound: Bound) -> Decoded:
    """What the bytes of a file hold; raises BadAudio."""
    return _decode(partial(_open_memory, content), 0.0, None, bound)


@contextmanager
def memory_file() -> Iterator[BinaryIO]:
    """A file without a name, which libsndfile can read and write by its descriptor.

    A `BytesIO` would have it call back into Python, where exceptions are printed and lost:
    interruptions too.
    """
    if hasattr(os, "memfd_create"):  # on Linux
        with open(os.memfd_create("recording"), "w+b", buffering=0) as file:
            yield file
    else:
        with TemporaryFile(buffering=0) as file:
            yield file


def _stored(path: Path) -> re.Match[str] | None:
    """Archive, offset and size of a slice; None for a file of its own, whatever its name."""
    stored = _STORED.fullmatch(str(path))
    return None if stored and os.path.isfile(path) else stored


def _size_of_file(path: str | Path) -> int:
    """Bytes. Raises OSError unless it is a regular file; a pipe would never end."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a file")
    return status.st_size


def _slice(stored: re.Match[str]) -> bytes:
    archive, offset, size = stored[1], int(stored[2]), int(stored[3])
    if offset + size > _size_of_file(archive):
        raise BadAudio("lies beyond the end of its archive; correct the manifest")
    with open(archive, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _open_memory(content: bytes, forward: bool = False) -> soundfile.SoundFile:
    with _reasons(), memory_file() as file:
        file.write(content)
        file.seek(0)
        return _open(os.dup(file.fileno()), forward)


def _open(source: bytes | int, forward: bool = False) -> soundfile.SoundFile:
    """Open a file by its name or its descriptor, which is closed with it."""
    file = (_Forward if forward else soundfile.SoundFile)(source)
    uncounted = not file.frames and _UNCOUNTED.search(file.extra_info)
    if uncounted or file.frames < 0:
        file.close()
        raise BadAudio("has a header that counts no samples, though bytes follow it; rewrite it")
    return file


@contextmanager
def _reasons() -> Iterator[None]:
    """Turns whatever is raised when a recording is opened into BadAudio."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingAudio(f"cannot be opened: {error.strerror}") from error
    except OSError as error:
        raise BadAudio(f"cannot be opened: {error.strerror}") from error
    except ValueError as error:  # no file can be called so
        raise MissingAudio(f"cannot be opened: {error}") from error
    except TypeError as error:  # what an ending such as .raw leads to
        raise BadAudio("is not readable audio: it has no header; convert it to WAV") from error
    except soundfile.LibsndfileError as error:
        reason = " ".join(error.error_string.split()).rstrip(".")
        # What libsndfile says of a file that is only called MP3.
        reason = "format not recognised" if "does not exist" in reason else reason
        raise BadAudio(f"is not readable audio: {reason}") from error


def _decode(reopen: _Opener, start: float, end: float | None, bound: Bound) -> Decoded:
    with reopen() as file:
        rate, promised = file.samplerate, promised_frames(file)
        first = round(start * rate)
        last = promised if end is None else round(end * rate)
        # Some encoders' headers, and transcribers' clocks, are off by a few milliseconds.
        late = last > promised + rate // 10
        if late or first and first >= promised:
            wanted = end if late else start
            raise BadAudio(f"ends after {promised / rate:.2f} s, before {wanted:g} s")
        count = min(last, promised) - first
        readable = max(0, min(count, file.frames - first))
        samples = _read(file, reopen, first, readable, bound.frames(file))
        found = len(samples)
        if file.frames == ENDLESS or file.format == "MP3" and found >= (1 - MP3_ERROR) * count:
            count = readable = found
        refuse_not_finite(samples, first, rate)
        loudness = Loudness(file.subtype)
        loudness.add(samples)
        oddities = tuple(loudness.oddities())
        return Decoded(to_mono(samples), rate, count, found < readable, oddities)


def _read(
    file: soundfile.SoundFile, reopen: _Opener, first: int, count: int, most: int
) -> np.ndarray:
    """`count` samples (T, channels), float32, or fewer if the file is damaged or endless.

    Raises BadAudio if they are more than `most`.
    """
    if file.frames == ENDLESS:
        samples = read_in_blocks(reopen, first, min(count, most + 1), file.channels)
        count = len(samples)
    elif count <= most:
        samples = _read_in_one(file, reopen, first, count)
    if count > most:
        raise BadAudio(f"is too long for one recording: more than {most:,} samples")
    return samples


def _read_in_one(file: soundfile.SoundFile, reopen: _Opener, first: int, count: int) -> np.ndarray:
    """Not in blocks: soundfile seeks after each, which changes what MP3 decodes to."""
    try:
        if not file.seekable():
            return file.read(first + count, dtype="float32", always_2d=True)[first:]
        file.seek(first)
        return file.read(count, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return read_in_blocks(reopen, first, count, file.channels)


def read_in_blocks(reopen: _Opener, first: int, count: int, channels: int) -> np.ndarray:
    """What can be decoded before the end or the first damage, but for a sample."""
    blocks = [np.empty((0, channels), dtype=np.float32)]
    step, done = _BLOCK, 0
    while step and done < count:
        try:
            with reopen() as file:
                file.seek(first + done)
                while done < count:
                    wanted = min(step, count - done)
                    blocks.append(file.read(wanted, dtype="float32", always_2d=True))
                    done += len(blocks[-1])
                    if len(blocks[-1]) < wanted:
                        return np.concatenate(blocks)
        except soundfile.LibsndfileError:
            step //= 2
    return np.concatenate(blocks)


def refuse_not_finite(samples: np.ndarray, first: int, rate: int) -> None:
    """Raise BadAudio that says where the first sample is that is not a finite number."""
    bad = ~np.isfinite(samples).all(axis=1)
    if bad.any():
        place = first + int(bad.argmax())
        raise BadAudio(
            f"has samples that are not numbers, the first at {place / rate:.3f} s (sample {place})"
        )
