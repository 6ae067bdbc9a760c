"""Whether the packages are installed that write and run ONNX files."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from speechprune.errors import UserError

_INSTALL = "pip install 'speechprune[onnx]'"
_WRITING = ("onnx", "onnxscript", "onnxruntime")


def check_onnx() -> None:
    """Raise UserError unless all is installed that writing ONNX files takes."""
    for name in _WRITING:
        onnx_package(name)


def onnx_package(name: str) -> Any:
    """A module of a package that only ONNX files need.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"ONNX files need {name.partition('.')[0]}, which cannot be imported ({error}): "
            f"{_INSTALL}"
        ) from error
