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


def write_atomically(path: Union[str, Path], data: bytes) -> None:
    """Put ``data`` at ``path``, whole or not at all; raises UserError as `replacing_file`."""
    with replacing_file(path) as file:
        file.write(data)
