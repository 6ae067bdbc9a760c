"""A file in parts that are small enough to travel, joined again by `cat`."""

from __future__ import annotations

from glob import escape
from pathlib import Path

from speechprune.files import digest, replacing_file, write_atomically

#: Bytes of a part: below 16 MiB, with room for what a message says beside it.
LARGEST = 15 << 20


def write_parts(path: Path, largest: int = LARGEST) -> list[Path]:
    """Write `NAME.part1`, `NAME.part2` ... beside a file, and its checksum in `NAME.sha256`.

    `cat NAME.part* > NAME && sha256sum -c NAME.sha256` makes the file of them: there are nine at
    most, which the shell has in their order. Parts of an earlier file are removed.

    Args:
        largest: bytes of a part, unless nine of that size are too few.

    Returns:
        The parts, in order.

    Raises:
        UserError: they cannot be written.
    """
    size = max(1, largest, -(-path.stat().st_size // 9))
    for old in path.parent.glob(f"{escape(path.name)}.part[1-9]"):
        old.unlink()
    parts: list[Path] = []
    with path.open("rb") as file:
        while block := file.read(size):
            parts.append(path.with_name(f"{path.name}.part{len(parts) + 1}"))
            with replacing_file(parts[-1]) as part:
                part.write(block)
    line = f"{digest(path)}  {path.name}\n"
    write_atomically(path.with_name(f"{path.name}.sha256"), line.encode())
    return parts
