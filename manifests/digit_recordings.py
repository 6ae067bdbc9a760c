"""Single spoken digits, as the Free Spoken Digit Dataset has them (Jakobovski and contributors,
CC BY-SA 4.0): 8 kHz mono, named `{digit}_{speaker}_{index}`, where indices 0 to 4 are for testing.

They come as a tar or zip archive, such as GitHub gives, or as a folder, such as a git clone.
"""

from __future__ import annotations

import gzip
import logging
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechprune.errors import UserError
from speechprune.files import digest
from speechprune.manifests.provenance import ARCHIVE_DIGEST, finished
from speechprune.manifests.recording import BadAudio, Bound, decode_memory

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?:.*/)?(\d)_([A-Za-z0-9-]+)_(\d+)\.(?:flac|wav)")
_TEST_INDICES = range(0, 5)
_VALID_INDICES = range(5, 10)
_LARGEST_RECORDING = 1 << 20  # bytes; the largest of the data set has 40 thousand
_BOUND = Bound(values=1 << 19, seconds=60.0)
_MOST_VALUES = 1 << 26  # of all recordings together: two hours at 8 kHz
_LARGEST_HEADER = 1 << 20  # bytes that tarfile reads at once to find a member's name
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,  # a file that is not a recording, or a password is asked for
)


@dataclass(frozen=True)
class Recording:
    """One spoken digit: `samples` float32 (T,) at the data set's rate, 8 kHz."""

    digit: int
    speaker: str
    index: int
    samples: np.ndarray

    @property
    def split(self) -> str:
        """The one split that may use it."""
        if self.index in _TEST_INDICES:
            return "test"
        return "valid" if self.index in _VALID_INDICES else "train"


class _File(NamedTuple):
    """A file that an archive or folder holds, its size in bytes, and what reads it."""

    name: str
    size: int
    read: Callable[[], bytes]


def read_recordings(source: Path) -> tuple[list[Recording], int]:
    """All recordings of an archive or folder, sorted, and their sample rate in Hz.

    Files are decoded in memory and never written under their own names. Raises UserError for
    a source that is missing or damaged, or holds no digits, several sample rates, or far more
    audio than digits need.
    """
    try:
        decoded = list(_decoded(source))
    except FileNotFoundError:
        raise _missing(source) from None
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0].rstrip(".:")
        raise UserError(
            f"{source} is not an archive, or folder, of FLAC or WAV recordings: {reason}"
        ) from error
    rates = sorted({rate for _, rate in decoded})
    if not rates:
        raise UserError(f"{source} holds no recording named DIGIT_SPEAKER_INDEX.wav or .flac")
    if len(rates) > 1:
        raise UserError(f"{source} holds recordings of several sample rates, {rates} Hz; use one")
    recordings = [recording for recording, _ in decoded]
    return sorted(recordings, key=lambda r: (r.digit, r.speaker, r.index)), rates[0]


def recordings_digest(source: Path) -> str:
    """What tells an archive or folder from others: SHA-256, in hexadecimal, of the archive, or of
    the names and contents of the folder's recordings.

    Raises UserError for a source that is missing or cannot be read.
    """
    try:
        if not source.is_dir():
            return digest(source)
        found = sha256()
        for file in _in_folder(source):
            if _NAME.fullmatch(file.name):
                found.update(os.fsencode(os.path.relpath(file.name, source)) + b"\0")
                found.update(digest(file.name).encode())
    except FileNotFoundError:
        raise _missing(source) from None
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}") from error
    return found.hexdigest()


def finished_of(folder: Path, wanted: Mapping[str, Any], source: Path) -> bool:
    """Whether a folder was prepared with `wanted` settings.

    Raises UserError if it was prepared with others, or of other recordings than the source's, as
    far as both tell: folders of earlier versions do not, nor does a source that is gone.
    """
    found = finished(folder, wanted)
    if found is None:
        return False
    if ARCHIVE_DIGEST in found and source.exists():
        finished(folder, {ARCHIVE_DIGEST: recordings_digest(source)})
    return True


def _missing(source: Path) -> UserError:
    return UserError(f"{source} is missing; it should be the archive, or folder, of spoken digits")


class _Member(tarfile.TarInfo):
    """A member, refused if its long name, or other attributes, would fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if not member.isfile() and member.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"it has a header of {member.size} bytes")
        return member


def _decoded(source: Path) -> Iterator[tuple[Recording, int]]:
    """Each recording and its rate."""
    left = _MOST_VALUES
    for file in _files(source):
        named = _NAME.fullmatch(file.name)
        if named is None:
            continue
        digit, speaker, index = named.groups()
        samples, rate = _decode(source, file)
        left -= len(samples)
        if left < 0:
            raise UserError(f"{source} holds far more audio than spoken digits need")
        yield Recording(int(digit), speaker, int(index), samples), rate


def _decode(source: Path, file: _File) -> tuple[np.ndarray, int]:
    """Samples (T,) of a recording and their rate; warns of what is odd about them."""
    try:
        if file.size > _LARGEST_RECORDING:
            raise BadAudio(f"is too long for a spoken digit: {file.size} bytes")
        decoded = decode_memory(file.read(), _BOUND)
        remarks = decoded.check()
    except BadAudio as problem:
        raise UserError(f"{source} holds {file.name!r}, which {problem}") from problem
    for remark in remarks:
        logger.warning(f"{source} holds {file.name!r}, which {remark.message}")
    return decoded.samples, decoded.rate


def _files(source: Path) -> Iterator[_File]:
    """What could be recordings. Raises UserError for a member that would be written elsewhere."""
    if source.is_dir():
        yield from _in_folder(source)
        return
    for file in _in_archive(source):
        if file.name.startswith("/") or ".." in file.name.split("/"):
            raise UserError(f"{source} has a member {file.name!r} outside of it; do not trust it")
        yield file


def _in_folder(folder: Path) -> Iterator[_File]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield _File(str(path), path.stat().st_size, path.read_bytes)


def _in_zip(archive: Path) -> Iterator[_File]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            yield _File(member.filename, member.file_size, partial(opened.read, member))


def _in_archive(archive: Path) -> Iterator[_File]:
    # A tar archive may end in a zip archive, but not the other way round.
    try:
        tar = tarfile.open(archive, tarinfo=_Member)
    except tarfile.ReadError:
        if not zipfile.is_zipfile(archive):
            raise
        yield from _in_zip(archive)
        return
    with tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                yield _File(member.name, member.size, stream.read)
