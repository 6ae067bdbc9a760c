"""The group of commands: found in their folder, imported when they run, errors in one line."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import speechprune
from speechprune.errors import UserError
from speechprune.tools import main as group

TOOLS = Path(group.__file__).parent


def full_disk() -> None:
    """As torch fails: its own error while it closes a file that could not be written."""
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904


def fail_with(error: BaseException) -> None:
    raise error


@pytest.fixture
def run_failing(monkeypatch: pytest.MonkeyPatch):
    """Run a command `evaluate` whose body is given."""

    def run(body, *arguments) -> Result:
        @click.command()
        def command() -> None:
            body(*arguments)

        monkeypatch.setattr(group.Commands, "get_command", lambda *_: command)
        return CliRunner().invoke(group.commands, ["evaluate"], prog_name="speechprune")

    return run


def test_every_file_of_the_folder_is_a_command() -> None:
    files = {p.stem.replace("_", "-") for p in TOOLS.glob("[!_]*.py")} - {"main"}
    context = click.Context(group.commands)
    assert set(group.commands.list_commands(context)) == files
    for name in files:
        assert isinstance(group.commands.get_command(context, name), click.Command)


def test_help_names_every_command_and_imports_none(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = []
    original = importlib.import_module
    monkeypatch.setattr(
        importlib, "import_module", lambda name, *rest: (imported.append(name), original(name))[1]
    )
    result = CliRunner().invoke(group.commands, ["--help"])
    assert result.exit_code == 0
    listed = dict(
        line.split(maxsplit=1)
        for line in result.stdout.partition("Commands:\n")[2].splitlines()
        if line.startswith("  ") and line[2] != " "
    )
    assert set(listed) == set(group.commands.list_commands(click.Context(group.commands)))
    assert set(imported) == {"speechprune.tools"}


@pytest.mark.parametrize(
    ("body", "arguments", "line", "code"),
    [
        (fail_with, (UserError("two\nlines"),), "two lines", 1),
        (full_disk, (), "No space left on device; free some space", 1),
        (fail_with, (PermissionError(errno.EACCES, "denied", "/a"),), "no permission to use /a", 1),
        (fail_with, (KeyboardInterrupt(),), "interrupted", 130),
    ],
)
def test_what_a_user_can_mend_is_one_line(run_failing, body, arguments, line, code) -> None:
    result = run_failing(body, *arguments)
    assert result.exit_code == code
    assert result.stderr.startswith("speechprune: error: ") and line in result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""


def test_a_mistake_of_the_program_is_not_hidden(run_failing) -> None:
    assert isinstance(run_failing(fail_with, KeyError("bug")).exception, KeyError)


def test_wrong_usage_is_one_line_that_names_the_help() -> None:
    result = CliRunner().invoke(group.commands, ["evaluate", "--dat"], prog_name="speechprune")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "See `speechprune evaluate --help`" in result.stderr


@pytest.mark.parametrize("group_name", ["prepare", "manifest", "masks", "layers"])
def test_a_group_without_a_subcommand_prints_its_help(group_name: str) -> None:
    bare, asked = (
        CliRunner().invoke(group.commands, [group_name, *flag], prog_name="speechprune")
        for flag in ([], ["--help"])
    )
    assert (bare.exit_code, bare.stdout) == (2, "")
    assert bare.stderr == asked.stdout and bare.stderr.startswith(
        f"Usage: speechprune {group_name}"
    )


def test_an_unknown_command_gets_the_nearest_name() -> None:
    result = CliRunner().invoke(group.commands, ["evalaute"])
    assert result.exit_code == 1
    assert (
        result.stderr
        == "speechprune: error: unknown command 'evalaute'; did you mean 'evaluate'?\n"
    )


def test_the_console_script_prints_its_version_and_no_log() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "speechprune.tools.main", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == f"speechprune, version {speechprune.__version__}\n"
