"""A part's options as those of a command: types, bounds, defaults and names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Tuple

import click
import pytest
from click.testing import CliRunner

from speechprune.registry import option, options_of
from speechprune.tools._options import add_options
from speechprune.tools.main import commands


@dataclass(frozen=True)
class Part:
    """A part with an option of every kind."""

    file: Path = option("File to read.")
    count: int = option("Number of them.", 3, least=1, most=5)
    number: int = option("Number that counts.", 7)
    share: float = option("Share of them.", 0.5, above=0, most=1)
    level: Optional[float] = option("Level of noise.", None, metavar="DB")
    kind: Literal["one", "two"] = option("Kind of them.", "one")
    block: Literal[2, 4] = option("Size of a block.", 4)
    names: Tuple[str, ...] = option("A name, repeatable.", (), flag="--name")
    deep: bool = option("Go deep.", False)
    keep_it: bool = option("Keep what is there.", True)


@click.command()
@add_options(options_of(Part))
@click.pass_context
def command(context: click.Context, **options: Any) -> None:
    context.obj.append(Part(**options))


def parse(*words: str) -> Part:
    found: list[Part] = []
    result = CliRunner().invoke(command, words, obj=found)
    assert result.exit_code == 0, result.output
    return found[0]


def test_defaults_are_those_of_the_part() -> None:
    assert parse("--file", "a b") == Part(Path("a b"))


def test_every_kind_is_read() -> None:
    words = "--file f --count 5 --share 1 --level -3 --kind two --block 2 --name b --name a --deep"
    found = parse(*words.split(), "--no-keep-it")
    assert found == Part(Path("f"), 5, 7, 1.0, -3.0, "two", 2, ("b", "a"), True, False)
    assert type(found.block) is int and type(found.share) is float


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "Missing option '--file'"),
        ("--file f --count 0", "0 is not in the range 1<=x<=5"),
        ("--file f --share 0", "not in the range 0<x<=1"),
        ("--file f --number 99999999999999999999999", "not in the range 0<=x<=1000000000"),
        ("--file f --level nan", "nan is not a finite number"),
        ("--file f --share inf", "not in the range 0<x<=1"),
        ("--file f --share nan", "nan is not a finite number"),
        ("--file f --share much", "'much' is not a valid float"),
        ("--file f --kind three", "'three' is not one of 'one', 'two'"),
        ("--file f --block 3", "'3' is not one of '2', '4'"),
    ],
)
def test_other_values_are_refused(words: str, complaint: str) -> None:
    result = CliRunner().invoke(command, words.split(), obj=[])
    assert result.exit_code == 2 and complaint in result.output


def test_help_shows_defaults_bounds_and_names_in_order() -> None:
    told = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    for line in (
        "--file PATH File to read. [required]",
        "--count INTEGER RANGE Number of them. [default: 3; 1<=x<=5]",
        "--number INTEGER RANGE Number that counts. [default: 7; 0<=x<=1000000000]",
        "--share FLOAT RANGE Share of them. [default: 0.5; 0<x<=1]",
        "--level DB Level of noise.",
        "--kind [one|two] Kind of them. [default: one]",
        "--block [2|4] Size of a block. [default: 4]",
        "--name TEXT A name, repeatable.",
        "--deep Go deep.",
        "--keep-it / --no-keep-it Keep what is there. [default: keep-it]",
    ):
        assert line in told
        told = told.partition(line)[2]


def options_of_all(command: click.Command) -> Iterator[click.Option]:
    """The options of a command and of those below it."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield parameter
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from options_of_all(below)


def test_every_number_of_every_command_has_bounds() -> None:
    found = 0
    for each in options_of_all(commands):
        is_whole = isinstance(each.type, click.types.IntParamType)
        if not is_whole and not isinstance(each.type, click.types.FloatParamType):
            continue
        found += 1
        for value in (str(10**23), str(-(10**23))) if is_whole else ("nan", "inf"):
            with pytest.raises(click.BadParameter):
                each.type.convert(value, each, None)
                pytest.fail(f"{each.opts} takes {value}")
    assert found > 30
