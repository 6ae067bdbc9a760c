"""`speechprune export`: checkpoints in the files of other libraries."""

from __future__ import annotations

import click

from speechprune.tools._export_huggingface import huggingface
from speechprune.tools._export_onnx import onnx


@click.group("export")
def command() -> None:
    """Write a checkpoint in a file that other libraries load.

    What is written is loaded and compared with the source, and nothing stays if outputs differ.
    """


command.add_command(huggingface)
command.add_command(onnx)
