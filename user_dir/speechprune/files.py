"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Union

from speechprune.errors import UserError


@contextmanager
def replacing_file(path: Union[str, Path]) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` when the block ends.

    Whatever was at ``path`` stays whole until then, and for good if the block fails. Raises
    UserError if it cannot be written (no such folder, no permission, full disk).
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


def refuse_to_replace(out: Union[str, Path], *sources: Union[str, Path]) -> None:
    """Raise UserError if ``out`` is one of the files that it is to be made of."""
    for source in map(Path, sources):
        same = Path(out).exists() and source.exists() and Path(out).samefile(source)
        if same or Path(out).resolve() == source.resolve():
            raise UserError(f"{out} would be overwritten; give another file to write to")


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
