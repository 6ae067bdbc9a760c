"""`speechprune`: one group of commands, found by walking this folder."""

from __future__ import annotations

import ast
import importlib
import io
import logging
import pkgutil
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT
from typing import Any, Optional

import click
from click.shell_completion import CompletionItem

from speechprune import __version__
from speechprune.ending import Ended, end_on_signals, notice
from speechprune.errors import UserError
from speechprune.registry import unknown_name
from speechprune.training.failures import user_message

_PACKAGE = "speechprune.tools"
#: What click raises for a group without a subcommand; before click 8.2 it prints its help itself.
_HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())


class Failure(click.ClickException):
    """What a command could not do: one line on stderr and an exit status."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(f"speechprune: error: {self.message}", file=file, err=file is None)


class Commands(click.Group):
    """Each module of this folder that is not this one: `a_b.py` is the command `a-b`.

    A module is imported when its command runs; for the list of commands only its docstring is read.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        folder = importlib.import_module(_PACKAGE).__path__
        modules = [module.name for module in pkgutil.iter_modules(folder)]
        return sorted(
            name.replace("_", "-") for name in modules if name[0] != "_" and name != "main"
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        """The command; raises UserError, with the nearest name, if there is none."""
        names = self.list_commands(ctx)
        if cmd_name not in names and ctx.resilient_parsing:
            return None  # a shell asks how a line could go on, which may be misspelt so far
        if cmd_name not in names:
            raise UserError(unknown_name("command", cmd_name, names))
        command: click.Command = importlib.import_module(_module(cmd_name)).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name)) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so, without importing them, and the options."""
        begun = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=_summary(name)) for name in begun]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever its user can mend ends in one line."""
        try:
            return super().invoke(ctx)
        except _HELP:
            raise  # a group without a subcommand: click prints its help
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else ctx.command_path
            advice = f"See `{where} --help`."
            raise Failure(f"{error.format_message()} {advice}", error.exit_code) from error
        except Ended as error:
            notice()
            how = "interrupted" if error.number == SIGINT else f"ended by {error.number.name}"
            raise Failure(how, 128 + error.number) from error
        except KeyboardInterrupt as error:
            raise Failure("interrupted", 128 + SIGINT) from error
        except Exception as error:
            message = user_message(error)
            if message is None:
                raise
            raise Failure(message) from error


def _module(command: str) -> str:
    return f"{_PACKAGE}.{command.replace('-', '_')}"


def _summary(command: str) -> str:
    """What a module's docstring says after "`speechprune name`: "."""
    spec = find_spec(_module(command))
    assert spec is not None and spec.origin is not None
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].partition(": ")[2]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="speechprune")
def commands() -> None:
    """Choose which connections of a speech model to keep, inside fairseq's training loop."""


def main() -> None:
    """Run a command, as the console script and `python -m speechprune.tools.main` do."""
    # What newer libraries think of fairseq's code is nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning)
    # Importing fairseq shows the debug messages of every library.
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, force=True)
    end_on_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: names need not be text
    commands(prog_name="speechprune")


if __name__ == "__main__":
    main()
