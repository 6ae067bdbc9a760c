"""Processes forked from one that has fairseq's training loop imported, which takes longest."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Callable

import torch

#: Imported by training sooner or later. Not speechprune: training must find it by itself.
PRELOAD = ["fairseq_cli.hydra_train", "torch._dynamo", "soundfile", "editdistance"]


def start(
    log: Path, function: Callable[..., None], *arguments: Any, forked: bool = True
) -> BaseProcess:
    """Call a function in a new process.

    Args:
        log: what the process prints is added to this file.
        function: picklable, as its arguments are.
        forked: start from the process with the imports; else from a new interpreter.
    """
    context: Any = multiprocessing.get_context("forkserver" if forked else "spawn")
    context.set_forkserver_preload(PRELOAD)
    task = (dict(os.environ), log, function, *arguments)
    process: BaseProcess = context.Process(target=_begin, args=task)
    process.start()
    return process


def _begin(
    environment: dict[str, str], log: Path, function: Callable[..., None], *arguments: Any
) -> None:
    # A fork would have the environment of the test that was the first to need one.
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    function(*arguments)
