"""Functions that are put in the place of others, once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from speechprune.replacing import Function, replace


def louder(say: Function) -> Function:
    def say_louder(word: str) -> Any:
        return say(word) + "!"

    return say_louder


def politer(say: Function) -> Function:
    def say_politer(word: str) -> Any:
        return "please " + say(word)

    return say_politer


def say(word: str) -> str:
    """Says a word."""
    return word


def test_each_replaces_once_whatever_came_between() -> None:
    owner = SimpleNamespace(say=say)
    for make in (louder, politer, louder, politer, louder):
        replace(owner, "say", make)
    assert owner.say("go") == "please go!"
    assert owner.say.__doc__ == say.__doc__
    assert say("go") == "go" and not hasattr(say, "made_by")
