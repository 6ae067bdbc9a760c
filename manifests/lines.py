"""Text files, line by line, as fairseq counts lines."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Iterable, Iterator, TextIO

from speechprune.errors import UserError
from speechprune.files import replacing_file

#: Of text that others wrote, perhaps with a byte order mark.
ENCODING = "utf-8-sig"


def read_lines(path: Path) -> list[str]:
    """The lines of a file, parted by line feeds only, whatever else Unicode calls a line's end.

    A byte order mark at its start is left out. Raises UserError if the file is missing, cannot be
    read, or is not UTF-8 text.
    """
    with open_text(path) as file:
        return [line.rstrip("\n") for line in file]


@contextmanager
def open_text(
    path: Path,
    newline: str | None = None,
    hint: str = "correct its path, or prepare the corpus again",
) -> Iterator[TextIO]:
    """A text file to read, which may begin with a byte order mark.

    Args:
        newline: what parts lines, as in `open`.
        hint: what to do if it is missing.

    Raises:
        UserError: it is missing, cannot be read, or is not UTF-8.
    """
    try:
        with path.open(encoding=ENCODING, newline=newline) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {hint}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; convert it") from None


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write text that `read_lines` reads, as `replacing_file` does."""
    with replacing_file(path) as file:
        file.writelines(f"{line}\n".encode() for line in lines)
