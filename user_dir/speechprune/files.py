"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import BinaryIO, Union

from speechprune.errors import UserError

_SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def replacing_file(path: Union[str, Path]) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` when the block ends.

    Whatever was at ``path`` stays whole until then, and for good if the block fails or the power
    does; its permissions are kept. Through a symbolic link its target is written. Raises UserError
    if it cannot be written (no such folder, no permission, full disk), as `check_output` does, or
    if a file of another kind is there: a checkpoint is soon lost to a slip in a command line.
    """
    check_output(path)
    target = Path(os.path.realpath(path))
    # Cut short: the longest names leave no room.
    temporary = target.with_name(f".{target.name[:40]}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        refuse_other_kind(Path(path), kind_of(temporary))
        if target.exists():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        put_in_place(temporary, target)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Union[str, Path]) -> None:
    """Raise UserError if ``path`` is something else than a file, or than nothing yet.

    A device, which whoever is root could replace by a file, is none; nor is a pipe, whose writer
    would wait for a reader.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a folder; name a file to write")
    if not stat.S_ISREG(mode):
        what = _SPECIAL.get(stat.S_IFMT(mode), "no file")
        raise UserError(f"{path} is {what}, which is not replaced; name a file to write")


def put_in_place(temporary: Union[str, Path], path: Union[str, Path]) -> None:
    """Rename a file that was written, and have the disk keep it.

    Whenever the power fails, ``path`` is the whole file that it was, or the whole new one. Raises
    OSError.
    """
    sync(temporary)
    os.replace(temporary, path)
    sync(Path(path).parent)


def put_copy(source: Union[str, Path], path: Union[str, Path]) -> None:
    """Copy a file to ``path``, whole or not at all; raises UserError as `replacing_file`."""
    with replacing_file(path) as file, open(source, "rb") as copied:
        shutil.copyfileobj(copied, file)


def sync(path: Union[str, Path]) -> None:
    """Have the disk keep what a file holds, or what a folder lists; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know nothing of the kind for folders.
        if error.errno != errno.EINVAL or not os.path.isdir(path):
            raise
    finally:
        os.close(descriptor)


def check_folder(path: Union[str, Path]) -> None:
    """Raise UserError if a folder could not be made or written to at ``path``; makes nothing."""
    path = Path(path).absolute()
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir():
        raise UserError(f"{path} cannot be made a folder: {there} is a file")
    if not os.access(there, os.W_OK):
        raise UserError(f"{path} cannot be written to: no permission in {there}")


@contextmanager
def folder_beside(path: Union[str, Path]) -> Iterator[Path]:
    """An empty folder next to ``path``, which is gone when the block ends, with what is in it.

    Raises UserError if it cannot be made.
    """
    target = Path(os.path.realpath(path))
    names = (f".{target.name[:40]}.{os.getpid()}-{number}.tmp" for number in count())
    temporary = next(t for t in map(target.with_name, names) if not t.exists())
    try:
        temporary.mkdir()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Union[str, Path]) -> None:
    """Raise UserError if there is anything at ``path`` already, which is to be a new folder."""
    if os.path.lexists(path):
        raise UserError(f"{path} is there already; name a new folder, or remove it")


@contextmanager
def new_folder(path: Union[str, Path]) -> Iterator[Path]:
    """An empty folder that becomes ``path`` when the block ends, and vanishes if it fails.

    Raises UserError if something is at ``path`` already, or it cannot be written. Folders within
    are not synced.
    """
    refuse_existing(path)
    make_folder(Path(path).absolute().parent)
    with folder_beside(path) as temporary:
        yield temporary
        refuse_existing(path)  # it may have appeared meanwhile
        try:
            for file in sorted(temporary.iterdir()):
                sync(file)
            put_in_place(temporary, path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error


def kind_of(path: Path) -> str:
    """What a file is by its first bytes: "checkpoint", "figure", "safetensors" (masks, a matrix
    or a bank), "ONNX", "JSON", "text", or "" if it is empty, missing or no file at all."""
    if not path.is_file():
        return ""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    for kind, is_so in (
        ("", not start),
        # First of all, since it begins with a length, whose bytes may be those of other kinds.
        ("safetensors", start[8:9] == b"{" and start[4:8] == bytes(4)),
        ("checkpoint", start.startswith((b"PK\x03\x04", b"\x80"))),
        # The version of its form, and then its producer, graph or operators.
        ("ONNX", start[:1] == b"\x08" and start[2:3] in (b"\x12", b":", b"B")),
        ("figure", start.startswith((b"\x89PNG", b"%PDF", b"<?xml", b"<svg"))),
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
    """Raise UserError if ``out`` is one of the files that it is to be made of, or is not a file.

    Commands call it first: nothing is computed that could not be written.
    """
    check_output(out)
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
