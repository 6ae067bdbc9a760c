"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO, Union

from speechprune.errors import UserError


@contextmanager
def replacing_file(path: Union[str, Path]) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` when the block ends.

    Whatever was at ``path`` stays whole until then, and for good if the block fails. Raises
    UserError if it cannot be written (no such folder, no permission, full disk), or if a file of
    another kind is there: a checkpoint is soon lost to a slip in a command line.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file to write")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        refuse_other_kind(path, kind_of(temporary))
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(path: Union[str, Path]) -> None:
    """Raise UserError if a folder could not be made or written to at ``path``; makes nothing."""
    path = Path(path).absolute()
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir():
        raise UserError(f"{path} cannot be made a folder: {there} is a file")
    if not os.access(there, os.W_OK):
        raise UserError(f"{path} cannot be written to: no permission in {there}")


def kind_of(path: Path) -> str:
    """What a file is by its first bytes: "checkpoint", "figure", "masks or matrix" (safetensors),
    "JSON", "text", or "" if it is empty or missing."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    for kind, is_so in (
        ("", not start),
        ("checkpoint", start.startswith((b"PK\x03\x04", b"\x80"))),
        ("figure", start.startswith((b"\x89PNG", b"%PDF", b"<?xml", b"<svg"))),
        ("masks or matrix", start[8:9] == b"{" and start[4:8] == bytes(4)),
        ("JSON", start.lstrip().startswith((b"{", b"["))),
    ):
        if is_so:
            return kind
    return "text"


def refuse_other_kind(path: Path, kind: str) -> None:
    """Raise UserError if there is a file of another kind at ``path``."""
    there = kind_of(path)
    if there not in ("", kind):
        raise UserError(
            f"{path} is there already, and holds another kind of file ({there}); name another "
            "file, or remove it"
        )


def refuse_to_replace(out: Union[str, Path], *sources: Union[str, Path]) -> None:
    """Raise UserError if ``out`` is one of the files that it is to be made of."""
    for source in map(Path, sources):
        same = Path(out).exists() and source.exists() and Path(out).samefile(source)
        if same or Path(out).resolve() == source.resolve():
            raise UserError(f"{out} would be overwritten; give another file to write to")


def digest(path: Union[str, Path]) -> str:
    """SHA-256 of a file, in hexadecimal; read once for each state of the file."""
    status = os.stat(path)
    return _digest(os.path.abspath(path), status.st_mtime_ns, status.st_size, status.st_ino)


@cache
def _digest(path: str, modified: int, size: int, inode: int) -> str:
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            checksum.update(block)
    return checksum.hexdigest()


def make_folder(path: Union[str, Path]) -> Path:
    """Make a folder, and those above it; raises UserError if that cannot be done."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be made a folder: {error.strerror}") from error
    return Path(path)


def write_atomically(path: Union[str, Path], data: bytes) -> None:
    """Put ``data`` at ``path``, whole or not at all; raises UserError as `replacing_file`."""
    with replacing_file(path) as file:
        file.write(data)
