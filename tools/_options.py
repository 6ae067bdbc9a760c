"""The options of registered parts as options of commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from speechprune.registry import Option


def add_options(
    options: Sequence[Option],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that gives a command's function the options of a part, in their order."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = _decorator(option)(function)
        return function

    return add


def dictionary_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option ``--dictionary`` of commands that write a manifest folder.

    Args:
        default: what the folder gets without it.
    """
    return click.option(
        "--dictionary",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Dictionary to write, such as that of a model to train further or to test; without "
        f"it, {default}. Symbols that it lacks are refused.",
    )


def _decorator(option: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One option of a command.

    Of its details these matter: ``flag``, what it is called if not by its name; ``metavar``, what
    its value is called; and ``least``, ``most`` and ``above``, the bounds of a number.
    """
    flag = option.details.get("flag", f"--{option.name.replace('_', '-')}")
    settings: dict[str, Any] = {"help": option.help, "metavar": option.details.get("metavar")}
    if option.kind is bool:
        flag = flag if option.default is False else f"{flag}/--no-{flag[2:]}"
        settings["is_flag"] = True
    else:
        settings["type"] = _type(option)
        settings["multiple"] = option.kind is tuple
    if option.required:
        settings["required"] = True
    else:
        settings["default"] = option.default
        settings["show_default"] = option.default not in (None, False, "", ())
    return click.option(flag, option.name, **settings)


def _type(option: Option) -> click.ParamType:
    if option.choices:
        return _Choice(option.choices)
    bounds = {
        "min": option.details.get("above", option.details.get("least")),
        "max": option.details.get("most"),
        "min_open": "above" in option.details,
    }
    if option.kind is int:
        return click.IntRange(**bounds)
    if option.kind is float:
        return click.FloatRange(**bounds)
    return click.Path(path_type=Path) if option.kind is Path else click.STRING


class _Choice(click.Choice):
    """One of some values, which a command line gives as text."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = {str(value): value for value in values}
        super().__init__(list(self._values))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._values[super().convert(str(value), param, ctx)]
