"""Every help text is a whole phrase, of every command and of every option."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from speechprune.tools.main import commands

#: How what lacks its noun, or its verb, begins.
FRAGMENT = re.compile(
    r"(Of|Those|That of|Repeat it|May be|In all|In Hz|At most|Such as|Per|Others|To \w+ on|The one"
    r"|\w[\w-]*:)(?!\w)"
)


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """A command and those below it, by what is typed."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from walk(child, (*path, name))


COMMANDS = dict(walk(commands, ("speechprune",)))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_is_explained_in_a_whole_phrase(path: str) -> None:
    for option in COMMANDS[path].params:
        if not isinstance(option, click.Option):
            continue
        assert option.help, f"{option.opts} has no help"
        assert option.help[0].isupper() or option.help[0].isdigit(), option.help
        assert option.help.endswith("."), option.help
        assert not FRAGMENT.match(option.help), option.help
        assert len(option.help.split()) > 1, option.help


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_says_what_it_does_in_plain_words(path: str) -> None:
    text = COMMANDS[path].help or ""
    first, *rest = text.split("\n\n")
    assert first.endswith(".") and first[0].isupper(), text
    for paragraph in rest:
        assert paragraph.rstrip().endswith((".", ":")) or paragraph.startswith("\b"), paragraph
    for riddle in (r"\bis no [a-z]", r"\bare no [A-Z]", r"\btold\b", r"\bgone on with\b"):
        assert not re.search(riddle, text), text


@pytest.mark.parametrize(
    "text",
    ["Of all runs.", "Those of the config.", "Repeat it.", "May be repeated.", "dc: a mean."],
)
def test_fragments_are_found(text: str) -> None:
    assert FRAGMENT.match(text)
