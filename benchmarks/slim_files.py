"""What a checkpoint takes on disk, how long it takes to load, and the memory that it needs."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.slim_models import FAMILY
from speechprune.models.loading import load_encoder
from speechprune.workers import follow_parent


@dataclass(frozen=True)
class Loaded:
    """What one process needs for one file.

    Attributes:
        size: of the file, in bytes.
        parameters: of the model.
        seconds: to load it, ready to run on the device.
        to_load, to_run: most memory, in bytes; see `benchmarks.memory.peak`.
    """

    size: int
    parameters: int
    seconds: float
    to_load: int
    to_run: int


@dataclass(frozen=True)
class Batch:
    """Noise to run a model on, (B, samples)."""

    device: str
    dtype: torch.dtype
    utterances: int
    samples: int

    def source(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.utterances, self.samples, generator=generator)
        return noise.to(self.device, self.dtype)


def load_each(
    paths: Mapping[str, Path], warm_up: Path, batch: Batch, threads: int
) -> Iterator[tuple[str, Loaded]]:
    """Load files and run their models, one at a time, each in a process of its own.

    Args:
        paths: checkpoints, by what they are called.
        warm_up: a small checkpoint, which a process loads and runs before its own, so that imports
            are not measured.
        threads: of each process.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                ProcessPoolExecutor(1, context, _begin, (warm_up, batch, threads))
            )
            for name in paths
        }
        for ready in [worker.submit(_nothing) for worker in workers.values()]:
            ready.result()
        for name, worker in workers.items():
            yield name, worker.submit(_load, paths[name], batch).result()


def _begin(warm_up: Path, batch: Batch, threads: int) -> None:
    follow_parent()
    torch.set_num_threads(threads)
    _load(warm_up, batch)


def _nothing() -> None:
    """What a process can do once it has begun."""


def _load(path: Path, batch: Batch) -> Loaded:
    memory.forget_peak(batch.device)
    start = perf_counter()
    model = load_encoder(path).to(batch.device, batch.dtype)
    if batch.device == "cuda":
        torch.cuda.synchronize()
    seconds = perf_counter() - start
    to_load = memory.peak(batch.device)
    source = batch.source()
    memory.forget_peak(batch.device)
    with torch.inference_mode():
        FAMILY.features(model, source, None)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    to_run = memory.peak(batch.device)
    return Loaded(path.stat().st_size, parameters, seconds, to_load, to_run)
