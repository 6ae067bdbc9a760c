"""Functions of other packages, put in the place of theirs once, whoever asks again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def replace(owner: Any, name: str, make: Callable[[Function], Function]) -> None:
    """Put ``make(function)`` in the place of a function of ``owner``, a module or class.

    What several have replaced keeps the part of each; who has done so before changes nothing.
    """
    function = getattr(owner, name)
    makers = getattr(function, "made_by", ())
    maker = f"{make.__module__}.{make.__qualname__}"
    if maker in makers:
        return
    made = functools.wraps(function)(make(function))
    made.made_by = (*makers, maker)  # type: ignore[attr-defined]
    setattr(owner, name, made)
