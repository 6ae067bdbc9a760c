"""`speechprune`: one command per file of this folder."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import click

from speechprune import __version__, tools
from speechprune.errors import UserError


class Commands(click.Group):
    """Finds each command in the module of its name, and imports only the one that is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        names = (module.name for module in pkgutil.iter_modules(tools.__path__))
        return sorted(name.replace("_", "-") for name in names if name != "main")

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(context):
            return None
        return importlib.import_module(f"speechprune.tools.{name.replace('-', '_')}").command


@click.command(cls=Commands)
@click.version_option(__version__)
def speechprune() -> None:
    """Choose which connections of a speech model to keep."""


def main() -> None:
    """Run a command; a user's mistake is one line on standard error and exit status 1."""
    try:
        speechprune()
    except UserError as error:
        sys.stderr.write(f"speechprune: error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
