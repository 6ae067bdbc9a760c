"""`speechprune completion`: the script with which a shell completes command lines."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

#: What the script sets to ask for completions; click derives the same name from "speechprune".
_VARIABLE = "_SPEECHPRUNE_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script that completes speechprune's commands and options in SHELL.

    Run it when a shell starts: write `eval "$(speechprune completion bash)"` into ~/.bashrc, the
    same with zsh into ~/.zshrc, and for fish save the output as
    ~/.config/fish/completions/speechprune.fish.
    """
    root = context.find_root()
    completer = get_completion_class(shell)
    assert completer is not None
    click.echo(completer(root.command, {}, "speechprune", _VARIABLE).source())
