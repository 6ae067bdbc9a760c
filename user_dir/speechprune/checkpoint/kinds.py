"""Types of values, as tests and in words."""

from __future__ import annotations

from typing import Any

NUMBER = (int, float)


def is_one_of(value: Any, types: tuple[type, ...]) -> bool:
    """Whether a value is of one of some types; a truth value is not a number."""
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def described(value: Any) -> str:
    """A value's type, as a noun."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
