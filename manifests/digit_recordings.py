"""Single spoken digits, as the Free Spoken Digit Dataset has them (Jakobovski and contributors,
CC BY-SA 4.0): 8 kHz mono, named `{digit}_{speaker}_{index}`, where indices 0 to 4 are for testing.

They come as a tar or zip archive, such as GitHub gives, or as a folder, such as a git clone.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from speechprune.errors import UserError
from speechprune.manifests.audio import to_mono

_NAME = re.compile(r"(?:.*/)?(\d)_([A-Za-z0-9-]+)_(\d+)\.(?:flac|wav)")
_TEST_INDICES = range(0, 5)
_VALID_INDICES = range(5, 10)
_LARGEST_RECORDING = 1 << 20  # bytes; the largest of the data set has 40 thousand
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
    """What an archive or folder holds, its size in bytes, and what reads it if it is a file."""

    name: str
    size: int
    read: Callable[[], bytes] | None


def read_recordings(source: Path) -> tuple[list[Recording], int]:
    """All recordings of an archive or folder, sorted, and their sample rate in Hz.

    Files are decoded in memory and never written under their own names. Raises UserError for
    a source that is missing or damaged, or holds no digits or several sample rates.
    """
    try:
        decoded = [found for file in _files(source) if (found := _decode(file)) is not None]
    except FileNotFoundError:
        raise UserError(
            f"{source} is missing; it should be the archive, or folder, of spoken digits"
        ) from None
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


def _files(source: Path) -> Iterator[_File]:
    """What could be recordings. Raises UserError for a member that would be written elsewhere."""
    if source.is_dir():
        yield from _in_folder(source)
        return
    # A tar archive may end in a zip archive, but not the other way round.
    is_zip = zipfile.is_zipfile(source) and not tarfile.is_tarfile(source)
    for file in _in_zip(source) if is_zip else _in_tar(source):
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


def _in_tar(archive: Path) -> Iterator[_File]:
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            yield _File(member.name, member.size, stream.read if stream else None)


def _decode(file: _File) -> tuple[Recording, int] | None:
    """The recording in a file and its rate; None for whatever is not a recording."""
    named = _NAME.fullmatch(file.name)
    if named is None or file.read is None or file.size > _LARGEST_RECORDING:
        return None
    samples, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32", always_2d=True)
    digit, speaker, index = named.groups()
    return Recording(int(digit), speaker, int(index), to_mono(samples)), rate
