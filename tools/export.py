"""`speechprune export`: finetuned models in the formats of others."""

from __future__ import annotations

import click

from speechprune.tools._export_onnx import onnx


@click.group("export")
def command() -> None:
    """Write a finetuned model in a format of others, compared with the model before it is kept."""


command.add_command(onnx)
