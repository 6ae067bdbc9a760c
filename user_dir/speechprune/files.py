"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Union

from speechprune.errors import UserError


def write_atomically(path: Union[str, Path], data: bytes) -> None:
    """Put ``data`` at ``path`` by way of a temporary name in the same folder.

    Whatever was at ``path`` stays whole until the new file is. Raises UserError if it cannot be
    written (no such folder, no permission, full disk).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
