"""Time and memory of one training step: weights, masks by a sort in every forward, masks as here.

    python -m benchmarks.train_step

wav2vec 2.0 base with random weights; forward, CTC loss, backward, gradient norm and fairseq's Adam.
Each way of training has a process of its own, so that peak memory is its own, and the steps take
turns, so that what else the machine does falls on all alike. A minute and a half on two cores.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

from benchmarks import memory
from benchmarks.harness import Report, Rows, device_option, machine, precisions_option
from benchmarks.recognisers import LETTERS, RECOGNISERS, SMALL_ENCODER, PlainRecogniser
from speechprune.workers import follow_parent

SAMPLE_RATE = 16_000
UTTERANCE_SECONDS = 15
LETTERS_PER_SECOND = 12
GIBIBYTE = 2**30
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WARM_UP = 2

#: What masks may cost beside plain finetuning, at so many seconds of audio.
PROMISED_AT, PROMISED_TIME, PROMISED_MEMORY = 75, 1.03, 1.10


@dataclass(frozen=True)
class Task:
    """What is trained: batches of ``seconds`` of audio, in utterances of at most 15 s.

    Attributes:
        settings: what differs from the encoder of wav2vec 2.0 base.
    """

    device: str
    precision: str
    seconds: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One training step, in seconds: in all, and choosing masks before the forward pass."""

    total: float
    selection: float


@dataclass(frozen=True)
class Measured:
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

    def cells(self) -> list[str]:
        """A row; the selection of `sort` is part of its forward pass."""
        return [
            f"{self.seconds} s",
            self.variant,
            self.precision,
            f"{self.step * 1e3:.0f} ms",
            f"{self.step_ratio:.2f}",
            f"{self.selection * 1e3:.0f} ms" if self.variant == "ours" else "",
            f"{self.share_on_masks:.1%}",
            f"{self.peak_memory / GIBIBYTE:.2f} GiB",
            f"{self.memory_ratio:.2f}",
        ]

    @property
    def breaks_promise(self) -> bool:
        """Whether our masks cost more than is promised, where something is."""
        return (self.variant, self.seconds) == ("ours", PROMISED_AT) and (
            self.step_ratio > PROMISED_TIME or self.memory_ratio > PROMISED_MEMORY
        )


HEADS = "batch,training,,step,ratio,selection,on masks,peak memory,ratio".split(",")
WIDTHS = (5, 8, 4, 9, 6)


class Trainer:
    """What fairseq's trainer does in one update with one batch.

    Args:
        variant: a key of `RECOGNISERS`.
    """

    def __init__(self, variant: str, task: Task) -> None:
        torch.manual_seed(0)
        self.device = torch.device(task.device)
        dtype = DTYPES[task.precision]
        self.model = self.build(variant, task.settings).to(self.device, dtype)
        parameters: list[Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(parameters, task.precision)
        utterances = max(1, task.seconds // UTTERANCE_SECONDS)
        samples = SAMPLE_RATE * task.seconds // utterances
        self.source = torch.randn(utterances, samples).to(self.device, dtype)
        letters = LETTERS_PER_SECOND * task.seconds // utterances
        self.targets = torch.randint(1, LETTERS, (utterances, letters)).to(self.device)
        self.update = 0

    def build(self, variant: str, settings: Mapping[str, Any]) -> PlainRecogniser:
        return RECOGNISERS[variant](**settings)

    def step(self) -> Step:
        torch.manual_seed(self.update)
        np.random.seed(self.update)
        start = self._now()
        self.model.choose_masks(self.update)
        selected = self._now()
        loss = self.loss(self.model(self.source))
        self.optimizer.backward(loss)
        self.optimizer.clip_grad_norm(0.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update += 1
        return Step(self._now() - start, selected - start)

    def loss(self, log_probabilities: Tensor) -> Tensor:
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


def make_optimizer(parameters: list[Tensor], precision: str) -> Any:
    """fairseq's Adam with the recipes' settings, under its FP16Optimizer in half precision."""
    adam = OmegaConf.create(
        {
            "_name": "adam",
            "adam_betas": "(0.9,0.98)",
            "adam_eps": 1e-8,
            "weight_decay": 0.0,
            "use_old_adam": False,
            "fp16_adam_stats": False,
            "tpu": False,  # by default it refers to a whole config
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
            bf16=precision == "bf16",
            fp16_init_scale=1,  # random weights: nothing is learnt, and no step may be skipped
            fp16_scale_window=10**6,
            fp16_scale_tolerance=0.0,
            threshold_loss_scale=None,
            min_loss_scale=1e-9,
        ),
    )
    return FP16Optimizer.build_optimizer(settings, parameters)


def _serve(connection: Connection, threads: int, variant: str) -> None:
    """Train in this process: begin with each task that comes, and make a step whenever asked."""
    follow_parent()
    torch.set_num_threads(threads)
    trainer: Any = None
    while (message := connection.recv()) is not None:
        if isinstance(message, Task):
            trainer = None
            memory.forget_peak(message.device)
            trainer = Trainer(variant, message)
            connection.send(None)
        else:
            connection.send((trainer.step(), memory.peak(trainer.device.type)))
            memory.give_back()


class Worker:
    """A `Trainer` in a process of its own."""

    def __init__(self, variant: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.variant = variant
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads, variant), daemon=True)
        self.process.start()
        theirs.close()
        self.steps: list[Step] = []
        self.peak_memory = 0

    def begin(self, task: Task) -> None:
        """Build the model; what was measured before is forgotten."""
        self.steps = []
        self.ask(task)

    def step(self) -> None:
        step, self.peak_memory = self.ask("step")
        self.steps.append(step)

    def ask(self, message: Any) -> Any:
        try:
            self.connection.send(message)
            return self.connection.recv()
        except (EOFError, ConnectionError):
            raise click.ClickException(f"the process that measures {self.variant!r} died") from None


@contextmanager
def started(threads: int) -> Iterator[list[Worker]]:
    """A worker for each way of training, plain finetuning first."""
    workers = [Worker(variant, threads) for variant in RECOGNISERS]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join()


def measure(workers: Sequence[Worker], task: Task, steps: int) -> Iterator[Measured]:
    """Medians over ``steps`` steps of each way, after two to warm up."""
    for worker in workers:
        worker.begin(task)
    for _ in range(steps + WARM_UP):
        for worker in workers:
            worker.step()
    plain = workers[0]
    plain_step = median(step.total for step in plain.steps[WARM_UP:])
    for worker in workers:
        warm = worker.steps[WARM_UP:]
        total = median(step.total for step in warm)
        yield Measured(
            device=task.device,
            precision=task.precision,
            seconds=task.seconds,
            variant=worker.variant,
            step=total,
            step_ratio=total / plain_step,
            selection=median(step.selection for step in warm),
            share_on_masks=max(0.0, 1 - plain_step / total),
            peak_memory=worker.peak_memory,
            memory_ratio=worker.peak_memory / plain.peak_memory,
        )


@click.command(help=__doc__)
@device_option
@precisions_option(("fp16", "bf16"))
@click.option(
    "--seconds", multiple=True, type=click.IntRange(1), default=(10,), help="Audio a batch; 10."
)
@click.option("--steps", type=click.IntRange(1), default=3, help="Steps measured of each way; 3.")
@click.option("--threads", default=2, show_default=True, help="Threads of each process.")
@click.option("--quick", is_flag=True, help="Train a tiny encoder, to try this out.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each row.")
@click.option(
    "--check",
    is_flag=True,
    help=f"Fail if our masks, at {PROMISED_AT} s of audio, take more than {PROMISED_TIME:.2f} of "
    f"plain finetuning's time or {PROMISED_MEMORY:.2f} of its memory.",
)
def main(
    device: str,
    precisions: tuple[str, ...],
    seconds: tuple[int, ...],
    steps: int,
    threads: int,
    quick: bool,
    as_json: bool,
    check: bool,
) -> None:
    settings = SMALL_ENCODER if quick else {}
    tasks = [Task(device, each, length, settings) for each in precisions for length in seconds]
    report = Report()
    rows = None
    if not as_json:
        report.tell(f"{machine(device)}\n")
        rows = report.table(HEADS, WIDTHS, left=3)
    broken = []
    with started(1 if quick else threads) as workers:
        for task in tasks:
            for row in measure(workers, task, steps):
                _tell(row, rows)
                if row.breaks_promise:
                    broken.append(row)
    if check and broken:
        raise click.ClickException(
            f"masks cost more than is promised at {PROMISED_AT} s, "
            f"{PROMISED_TIME:.2f} of the time and {PROMISED_MEMORY:.2f} of the memory of plain "
            "finetuning: "
            + ", ".join(f"{r.precision} {r.step_ratio:.2f}, {r.memory_ratio:.2f}" for r in broken)
        )


def _tell(row: Measured, rows: Rows | None) -> None:
    if rows is None:
        click.echo(json.dumps(asdict(row)))
    else:
        rows.add(*row.cells())


if __name__ == "__main__":
    main()
