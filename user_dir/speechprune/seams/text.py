"""Text that others wrote, perhaps with a byte order mark."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any


def read_past_byte_order_marks(module: ModuleType) -> None:
    """Let `module` read text that begins with a byte order mark, as some editors leave it.

    fairseq takes the mark for a part of the first line: of the audio's folder in a `.tsv`, or of
    the first symbol of labels and dictionaries, which is unknown then.
    """

    @functools.wraps(open)
    def open_text(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode == "r" and not args:
            options["encoding"] = "utf-8-sig"
        return open(file, mode, *args, **options)

    module.open = open_text  # type: ignore[attr-defined]
