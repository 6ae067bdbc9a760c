"""Registering our models with fairseq: importing the files of this folder does it."""

import functools
import importlib
from pathlib import Path


@functools.cache
def register_all() -> None:
    """Register all of our models."""
    for file in sorted(Path(__file__).parent.glob("wav2vec*.py")):
        importlib.import_module(f"speechprune.models.{file.stem}")
