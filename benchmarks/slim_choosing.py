"""What choosing heads and channels costs in training, beside the step that it happens in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from benchmarks.train_step import Task, Trainer
from speechprune.backbones.wav2vec2 import Wav2Vec2
from speechprune.slimming.controller import SlimController
from speechprune.slimming.criteria import CRITERIA
from speechprune.slimming.schedule import SlimSchedule
from speechprune.slimming.targets import Shares
from speechprune.slimming.units import LayerUnits

#: The default of `model.prune_every`.
EVERY = 50
#: So much is gone already, and more goes at every other update.
_REMOVED, _TARGET, _LAST = 0.49, 0.5, 10_000


@dataclass(frozen=True)
class Choosing:
    """Medians, in seconds.

    Attributes:
        step: a training step of the dense model.
        scores: scoring all units by the gradients of a step.
        zeros: writing zeros over the weights of what is removed, half of all.
        choice: choosing anew, which happens at one of `EVERY` updates.
    """

    step: float
    scores: float
    zeros: float
    choice: float

    @property
    def share(self) -> float:
        """Of the step, on average, until the last choice."""
        return (self.scores + self.zeros + self.choice / EVERY) / self.step


def measure_choosing(task: Task, repeats: int) -> Choosing:
    """Train a dense model, and between its steps choose among its heads and channels.

    Args:
        repeats: steps that are measured, after one that is not.
    """
    trainer = Trainer("plain", task)
    units = Wav2Vec2().units(trainer.model.encoder)
    controller = _controller(units)
    steps, scores, zeros, choices = [], [], [], []
    for update in range(1, 2 * repeats + 3, 2):
        steps.append(trainer.step().total)
        _draw_gradients(units)
        scores.append(_seconds(controller.observe, trainer.device))
        zeros.append(_seconds(partial(controller.set_num_updates, update), trainer.device))
        both = _seconds(partial(controller.set_num_updates, update + 1), trainer.device)
        choices.append(both - zeros[-1])
        for parameter in trainer.model.parameters():
            parameter.grad = None
    return Choosing(*(median(each[1:]) for each in (steps, scores, zeros, choices)))


def _controller(units: Sequence[LayerUnits]) -> SlimController:
    schedule = SlimSchedule(_TARGET, 0, _LAST, every=2, shape="linear", start=_REMOVED)
    shares = Shares({"heads": schedule, "channels": schedule})
    return SlimController(units, CRITERIA.build("snip_momentum"), shares)


def _draw_gradients(units: Sequence[LayerUnits]) -> None:
    """As large as those of a backward pass, which the optimizer has cleared."""
    for each in units:
        for linear in (each.query, each.key, each.value, each.out, each.second):
            linear.weight.grad = torch.randn_like(linear.weight)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
