"""Time and memory of one training step: weights, masks by a sort in every forward, masks as here.

    python -m benchmarks.train_step

wav2vec 2.0 base with random weights; forward, CTC loss, backward, gradient norm and fairseq's Adam.
Each way of training has a process of its own, so that peak memory is its own, and the steps take
turns, so that what else the machine does falls on all alike.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import resource
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from statistics import median
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import torch
from fairseq.optim.adam import FairseqAdam
from fairseq.optim.fp16_optimizer import FP16Optimizer
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from benchmarks.recognisers import LETTERS, RECOGNISERS

SAMPLE_RATE = 16_000
UTTERANCE_SECONDS = 15
LETTERS_PER_SECOND = 12
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Step:
    """One training step, in seconds: in all, and choosing masks before the forward pass."""

    total: float
    selection: float


@dataclass(frozen=True)
class Row:
    """Medians of one way of training.

    Attributes:
        step, selection: seconds per step, and of them choosing masks before the forward pass.
        share_on_masks: of the step, what plain finetuning does not spend.
        peak_memory: bytes; of the process on a processor, of the allocator on a GPU.
        step_ratio, memory_ratio: to plain finetuning.
    """

    device: str
    precision: str
    seconds: int
    variant: str
    step: float
    step_ratio: float
    selection: float
    share_on_masks: float
    peak_memory: int
    memory_ratio: float


class Trainer:
    """What fairseq's trainer does in one update with one batch.

    Args:
        variant: a key of `RECOGNISERS`.
        seconds: of audio per batch, in utterances of at most 15 s.
        precision: fp32 or fp16.
    """

    def __init__(self, variant: str, seconds: int, device: str, precision: str) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.model = RECOGNISERS[variant]().to(self.device)
        if precision == "fp16":
            self.model.half()
        parameters: list[Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = _optimizer(parameters, precision)
        utterances = max(1, seconds // UTTERANCE_SECONDS)
        samples = SAMPLE_RATE * seconds // utterances
        self.source = torch.randn(utterances, samples).to(self.device, self.model.head.weight.dtype)
        letters = LETTERS_PER_SECOND * seconds // utterances
        self.targets = torch.randint(1, LETTERS, (utterances, letters)).to(self.device)
        self.update = 0

    def step(self) -> Step:
        torch.manual_seed(self.update)
        np.random.seed(self.update)
        start = self._now()
        self.model.choose_masks(self.update)
        selected = self._now()
        loss = self._loss(self.model(self.source))
        self.optimizer.backward(loss)
        self.optimizer.clip_grad_norm(0.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update += 1
        return Step(self._now() - start, selected - start)

    def _loss(self, log_probabilities: Tensor) -> Tensor:
        frames, utterances, _ = log_probabilities.shape
        return F.ctc_loss(
            log_probabilities,
            self.targets,
            torch.full((utterances,), frames),
            torch.full((utterances,), self.targets.shape[1]),
            reduction="sum",
            zero_infinity=True,
        )

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak_memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _optimizer(parameters: list[Tensor], precision: str) -> Any:
    """fairseq's Adam with the recipes' settings, under its FP16Optimizer for fp16."""
    adam = OmegaConf.create(
        {
            "_name": "adam",
            "adam_betas": "(0.9,0.98)",
            "adam_eps": 1e-8,
            "weight_decay": 0.0,
            "fp16_adam_stats": False,
            "lr": [5e-5],
        }
    )
    if precision == "fp32":
        return FairseqAdam(adam, parameters)
    settings = SimpleNamespace(
        optimizer=adam,
        optimization=SimpleNamespace(update_freq=[1]),
        distributed_training=SimpleNamespace(distributed_world_size=1),
        common=SimpleNamespace(
            fp16_init_scale=1,  # random weights: nothing is learnt, and no step may be skipped
            fp16_scale_window=10**6,
            fp16_scale_tolerance=0.0,
            threshold_loss_scale=None,
            min_loss_scale=1e-9,
        ),
    )
    return FP16Optimizer.build_optimizer(settings, parameters)


def _serve(connection: Connection, threads: int, *trainer: Any) -> None:
    """Train in this process: one step per message, until the message is None."""
    torch.set_num_threads(threads)
    worker = Trainer(*trainer)
    while connection.recv() is not None:
        connection.send((worker.step(), worker.peak_memory()))
        _give_memory_back()


def _give_memory_back() -> None:
    """Let the others have, while they take their turns, what this process has freed."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class Worker:
    """A `Trainer` in a process of its own."""

    def __init__(self, variant: str, threads: int, *where: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.variant = variant
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, threads, variant, *where), daemon=True
        )
        self.process.start()
        theirs.close()
        self.steps: list[Step] = []
        self.peak_memory = 0

    def step(self, is_warm: bool) -> None:
        self.connection.send("step")
        try:
            step, self.peak_memory = self.connection.recv()
        except (EOFError, ConnectionError):
            raise click.ClickException(f"the process that measures {self.variant!r} died") from None
        if is_warm:
            self.steps.append(step)

    def stop(self) -> None:
        self.connection.send(None)
        self.process.join()


def measure(
    variants: list[str], seconds: int, device: str, precision: str, steps: int, threads: int
) -> list[Row]:
    """Medians over ``steps`` steps of each way, after two to warm up."""
    workers = [Worker(variant, threads, seconds, device, precision) for variant in variants]
    for turn in range(steps + 2):
        for worker in workers:
            worker.step(is_warm=turn >= 2)
    for worker in workers:
        worker.stop()
    plain = workers[0]
    plain_step = median(step.total for step in plain.steps)
    rows = []
    for worker in workers:
        total = median(step.total for step in worker.steps)
        rows.append(
            Row(
                device=device,
                precision=precision,
                seconds=seconds,
                variant=worker.variant,
                step=total,
                step_ratio=total / plain_step,
                selection=median(step.selection for step in worker.steps),
                share_on_masks=max(0.0, 1 - plain_step / total),
                peak_memory=worker.peak_memory,
                memory_ratio=worker.peak_memory / plain.peak_memory,
            )
        )
    return rows


def table(rows: list[Row]) -> str:
    """One line per row; the selection of `sort` is part of its forward pass."""
    lines = ["batch  training           step  ratio  selection  on masks  peak memory  ratio"]
    for row in rows:
        selection = f"{row.selection * 1e3:.0f} ms" if row.variant == "ours" else ""
        lines.append(
            f"{row.seconds:3d} s  {row.variant:<6} {row.precision:<6}"
            f"{row.step * 1e3:8.0f} ms{row.step_ratio:7.2f}{selection:>11}"
            f"{row.share_on_masks:10.1%}{row.peak_memory / GIBIBYTE:9.2f} GiB"
            f"{row.memory_ratio:7.2f}"
        )
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--seconds", multiple=True, type=int, default=(10, 75), help="Audio per batch.")
@click.option("--steps", default=7, show_default=True, help="Steps measured of each way.")
@click.option("--threads", default=2, show_default=True, help="Of each process.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(seconds: tuple[int, ...], steps: int, threads: int, as_json: bool) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for precision in ("fp32", "fp16") if device == "cuda" else ("fp32",):
        for length in seconds:
            rows += measure(list(RECOGNISERS), length, device, precision, steps, threads)
    click.echo(json.dumps([asdict(row) for row in rows], indent=1) if as_json else table(rows))


if __name__ == "__main__":
    main()
