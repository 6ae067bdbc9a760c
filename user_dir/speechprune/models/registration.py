"""Registering our models and tasks with fairseq: importing their files does it."""

import functools
import importlib
from pathlib import Path

#: The files that hold a model or a task each, by folder of the package.
_FILES = (("tasks", "audio_*.py"), ("models", "wav2vec*.py"), ("models", "roberta_*.py"))


@functools.cache
def register_all() -> None:
    """Register all of our models, and the tasks that they need."""
    for folder, pattern in _FILES:
        for file in sorted((Path(__file__).parent.parent / folder).glob(pattern)):
            importlib.import_module(f"speechprune.{folder}.{file.stem}")
