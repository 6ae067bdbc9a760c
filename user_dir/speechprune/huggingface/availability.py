"""Whether transformers is installed, and what has to be known before it is imported."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from speechprune.errors import UserError
from speechprune.replacing import Function, replace

_INSTALL = "pip install 'speechprune[huggingface]'"


def prepare_transformers() -> None:
    """Make transformers ready to be imported from.

    Raises:
        UserError: it is not installed, or too old.
    """
    try:
        transformers = import_module("transformers")
        utils = [import_module(f"transformers.{name}") for name in ("utils", "utils.import_utils")]
    except ImportError as error:
        raise UserError(
            f"Hugging Face's models need transformers, which cannot be imported ({error}): "
            f"{_INSTALL}"
        ) from error
    if int(transformers.__version__.partition(".")[0]) < 5:
        raise UserError(
            f"Hugging Face's models need transformers 5, not {transformers.__version__}: {_INSTALL}"
        )
    for module in utils:
        replace(module, "is_torchaudio_available", _where_it_works)


def _where_it_works(is_available: Function) -> Function:
    """transformers imports torchaudio wherever it is installed, for all of its speech models; but
    torchaudio for CUDA cannot be imported beside a torch without it, and they need none of it."""

    def is_available_and_works(*arguments: Any) -> bool:
        return bool(is_available(*arguments)) and _torchaudio_works()

    return is_available_and_works


@cache
def _torchaudio_works() -> bool:
    try:
        import_module("torchaudio")
    except (ImportError, OSError, RuntimeError):  # the last: of another CUDA than torch's
        return False
    return True
