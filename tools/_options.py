"""Types of options with their bounds, and the options of registered parts as those of commands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from speechprune.registry import Option

#: More than any count means: beyond, memory would end before the work does.
MOST = 10**9


def whole_number(least: int, most: int = MOST) -> click.IntRange:
    """The type of an option that counts."""
    return click.IntRange(least, most)


#: Those that all random generators take.
SEED = whole_number(0, 2**32 - 1)
#: Processes or runs at a time: each takes memory from the start.
AT_A_TIME = whole_number(1, 1024)


class Number(click.FloatRange):
    """The type of an option that measures; neither infinite nor "nan", which no bounds keep out."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


#: Of commands that read runs: the checkpoint of each that counts, as ``which``.
which_option = click.option(
    "--checkpoint",
    "which",
    type=click.Choice(["last", "best"]),
    default="last",
    show_default=True,
    help="Checkpoint of each run that counts.",
)
#: Of the same: the folder that they are evaluated on, as ``data``.
data_of_runs_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of the manifest; by default the one that each run was trained on.",
)


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


#: The value of --task for the task that is surest; as `speechprune.bank.task.AUTO`, which would
#: import more than an option takes.
AUTO = "auto"

task_option = click.option(
    "--task",
    metavar="NAME",
    help=f"Task of a bank to use, or {AUTO} for the one that is surest of each recording.",
)


def finetunes(*, train: str, valid: str, updates: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: adds what a workflow needs that finetunes, averages and evaluates in a folder.

    Args:
        train, valid, updates: help texts of these options.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    path = click.Path(path_type=Path)
    options = (
        click.option("--data", required=True, type=path, help="Folder of manifests."),
        click.option("--train", required=True, help=train),
        click.option("--valid", required=True, help=valid),
        click.option("--test", help="Split for the last evaluation; without it there is none."),
        click.option(
            "--config-name", "config", default="finetuning/base_1h", help="Config to finetune by."
        ),
        click.option("--updates", type=whole_number(1), help=updates),
        click.option(
            "--average",
            "num",
            default=10,
            type=whole_number(1),
            help="Number of checkpoints to average.",
        ),
        click.option(
            "--average-by",
            type=click.Choice(["valid", "last"]),
            default="valid",
            help="Which checkpoints are averaged: the best in validation, or the last.",
        ),
        click.option("--allow-test", is_flag=True, help="Allow a --valid whose name says test."),
        click.option(
            "--out", required=True, type=path, help="Folder that everything is written to."
        ),
        click.option(
            "--json", "as_json", is_flag=True, help="Print the report as JSON instead of text."
        ),
        click.argument("overrides", nargs=-1),
    )
    return add


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
    least, most = option.details.get("least"), option.details.get("most")
    if option.kind is int:
        return whole_number(0 if least is None else least, MOST if most is None else most)
    if option.kind is float:
        above = option.details.get("above")
        return Number(least if above is None else above, most, min_open=above is not None)
    return click.Path(path_type=Path) if option.kind is Path else click.STRING


class _Choice(click.Choice):
    """One of some values, which a command line gives as text."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = {str(value): value for value in values}
        super().__init__(list(self._values))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._values[super().convert(str(value), param, ctx)]
