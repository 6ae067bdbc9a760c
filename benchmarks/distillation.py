"""What a teacher costs in training: time of a step and peak memory, beside CTC alone.

    python -m benchmarks.distillation

wav2vec 2.0 base with random weights: forward pass, CTC loss, backward pass and fairseq's Adam, and
the same with a teacher, as `distill_ctc` has it. The teacher is the whole model, frozen; students
have all layers, or every other one.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks import memory
from benchmarks.harness import Report, Rows, device_option, machine, precision_option
from benchmarks.recognisers import SMALL_ENCODER, PlainRecogniser
from benchmarks.train_step import GIBIBYTE, WARM_UP, Task, Trainer
from speechprune.backbones.wav2vec2 import Wav2Vec2
from speechprune.checkpoint.pretrained import pretrained_state
from speechprune.criterions.teacher import Teacher
from speechprune.distillation.loss import distance
from speechprune.distillation.matching import Stack, matching_states
from speechprune.distillation.projections import Projections
from speechprune.distillation.states import collected


@dataclass(frozen=True)
class Measured:
    """What one student took.

    Attributes:
        layers: of the student.
        step: seconds.
        peak_memory: bytes; of the process on a processor, of the allocator on a GPU.
    """

    layers: int
    step: float
    peak_memory: int


class Student(PlainRecogniser):
    """Has every other layer, or all, and learns from a teacher, if there is one.

    Args:
        halved: whether layers 1, 3, 5 and so on are left out.
        teacher: its file; None for CTC alone.
        settings: what differs from the encoder of wav2vec 2.0 base.
    """

    def __init__(self, *, halved: bool, teacher: Path | None, **settings: Any) -> None:
        super().__init__(**settings)
        family = Wav2Vec2()
        if halved:
            layers = len(family.layers(self.encoder))
            family.drop_layers(self.encoder, range(1, layers, 2))
        self.layers = family.layers(self.encoder)
        self.teacher = None if teacher is None else Teacher(str(teacher), normalize=False)
        if self.teacher is not None:
            stacks = self.teacher.stack, Stack(len(self.layers))
            self.states = matching_states(self.teacher.states, *stacks)
            self.projections = Projections(self.teacher.channels)
        self.heard: Mapping[int, Tensor] = {}

    def forward(self, source: Tensor) -> Tensor:
        if self.teacher is None:
            return super().forward(source)
        with collected(self.layers, self.states) as self.heard:
            return super().forward(source)

    def distillation(self, teacher: Teacher, source: Tensor, frames: int) -> Tensor:
        """The distance from the teacher, as a sum over the batch's frames."""
        theirs = [state[:frames] for state in teacher.hear(source, None, together=True)]
        own = [
            self.projections(number, self.heard[state][:frames])
            for number, state in zip(teacher.states, self.states)
        ]
        return frames * len(source) * distance(own, theirs, None).loss()


class DistillingTrainer(Trainer):
    """What fairseq's trainer does in one update with `distill_ctc`."""

    model: Student

    def build(self, variant: str, settings: Mapping[str, Any]) -> Student:
        return Student(**settings)

    def loss(self, log_probabilities: Tensor) -> Tensor:
        ctc = super().loss(log_probabilities)
        if self.model.teacher is None:
            return ctc
        frames = len(log_probabilities)
        return (ctc + self.model.distillation(self.model.teacher, self.source, frames)) / 2


@click.command(help=__doc__)
@device_option
@precision_option
@click.option("--seconds", type=click.IntRange(1), default=10, help="Audio a batch; 10.")
@click.option("--steps", type=click.IntRange(1), default=3, help="Steps measured of each row; 3.")
@click.option("--threads", default=2, show_default=True, help="Threads.")
@click.option("--quick", is_flag=True, help="Train a tiny encoder, to try this out.")
@click.option("--save", type=click.Path(path_type=Path), help="File for the table.")
def main(
    device: str,
    precision: str,
    seconds: int,
    steps: int,
    threads: int,
    quick: bool,
    save: Path | None,
) -> None:
    torch.set_num_threads(threads)
    report = Report()
    report.tell(f"{machine(device)}; {precision}, {seconds} s of audio a batch")
    heads = ("layers", "teacher", "step", "ratio", "peak memory", "ratio")
    table = report.table(heads, (0, 9, 9), left=2)
    encoder = SMALL_ENCODER if quick else {}
    with tempfile.TemporaryDirectory() as folder:
        teacher = write_teacher(Path(folder, "teacher.pt"), encoder)
        for halved in (False, True):
            settings = {**encoder, "halved": halved}
            _compare(Task(device, precision, seconds, settings), teacher, steps, table)
    report.tell("ratio: to the same student without a teacher")
    if save is not None:
        report.save(save)


def _compare(task: Task, file: Path, steps: int, table: Rows) -> None:
    """Two rows of the table: a student without a teacher, and with one."""
    plain: Measured | None = None
    for teacher in (None, file):
        settings = {**task.settings, "teacher": teacher}
        found = measure(replace(task, settings=settings), steps)
        plain = plain or found
        table.add(
            str(found.layers),
            "no" if teacher is None else "the whole",
            f"{found.step * 1e3:.0f} ms",
            f"{found.step / plain.step:.2f}",
            f"{found.peak_memory / GIBIBYTE:.2f} GiB",
            f"{found.peak_memory / plain.peak_memory:.2f}",
        )


def measure(task: Task, steps: int) -> Measured:
    """Medians over ``steps`` steps, after two to warm up."""
    gc.collect()
    memory.forget_peak(task.device)
    trainer = DistillingTrainer("student", task)
    times = [trainer.step().total for _ in range(WARM_UP + steps)]
    peak = memory.peak(task.device)
    return Measured(len(trainer.model.layers), median(times[WARM_UP:]), peak)


def write_teacher(path: Path, encoder: Mapping[str, Any]) -> Path:
    """A pretrained checkpoint with random weights."""
    torch.manual_seed(0)
    model: Any = Wav2Vec2Model(Wav2Vec2Config(**encoder))
    model.remove_pretraining_modules()
    named: Any = OmegaConf.to_container(OmegaConf.structured(model.cfg), enum_to_str=True)
    settings = {**named, "_name": "wav2vec2"}
    task = {"_name": "audio_pretraining", "normalize": False}
    torch.save(pretrained_state(model.state_dict(), task, settings, updates=0), path)
    return path


if __name__ == "__main__":
    main()
