"""`speechprune completion`: click's own scripts, and completions that need no fairseq."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete, FishComplete, ZshComplete
from click.testing import CliRunner

from speechprune.tools.main import commands

SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}

#: Completes a command line, and says which slow libraries that took.
PROGRAM = """
import sys
from speechprune_command import main
sys.argv = ["speechprune"]
try:
    main()
finally:
    print(*sorted({"fairseq", "hydra", "torch"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_the_script_is_the_one_of_click(shell: str) -> None:
    result = CliRunner().invoke(commands, ["completion", shell])
    assert result.exit_code == 0, result.output
    own = SHELLS[shell](commands, {}, "speechprune", "_SPEECHPRUNE_COMPLETE")
    assert result.stdout == own.source() + "\n"


def test_another_shell_is_refused_in_one_line() -> None:
    result = CliRunner().invoke(commands, ["completion", "cmd"])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "'cmd' is not one of 'bash', 'zsh', 'fish'" in result.stderr


def completions(line: str, folder: Path) -> list[str]:
    """What bash is offered for the last word of ``line``; nothing slow is imported for it."""
    words = line.split(" ")
    asked = {
        "_SPEECHPRUNE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **asked},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "\n")
    return [row.partition(",")[2] for row in ran.stdout.splitlines() if row]


def test_commands_subcommands_and_options_are_completed_at_once(tmp_path: Path) -> None:
    context = click.Context(commands)
    names = commands.list_commands(context)
    assert completions("speechprune ", tmp_path) == names
    assert completions("speechprune ma", tmp_path) == ["manifest", "masks"]
    assert completions("speechprune layers s", tmp_path) == ["search", "similarity"]
    assert completions("speechprune recipe parp --sp", tmp_path) == ["--sparsity"]
    assert completions("speechprune compare runs --checkpoint ", tmp_path) == ["last", "best"]
    assert completions("speechprune --ver", tmp_path) == ["--version"]


def test_a_misspelt_command_has_no_completions(tmp_path: Path) -> None:
    assert completions("speechprune evalaute --js", tmp_path) == []


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_every_command_can_be_asked_for_completions(shell: str) -> None:
    completer = SHELLS[shell](commands, {}, "speechprune", "_SPEECHPRUNE_COMPLETE")
    for name in commands.list_commands(click.Context(commands)):
        offered = [item.value for item in completer.get_completions([name], "--")]
        assert "--help" in offered, name
