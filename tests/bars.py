"""Progress bars as a terminal would show them."""

from __future__ import annotations

import io
import sys
from types import ModuleType

import pytest
from tqdm import tqdm


class Terminal(io.StringIO):
    """Takes what is written, as a terminal."""

    def isatty(self) -> bool:
        return True


def watch(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tqdm]:
    """The bars that ``module`` will show from now on."""
    shown: list[tqdm] = []

    class Watched(tqdm):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            shown.append(self)

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(module, "tqdm", Watched)
    return shown
