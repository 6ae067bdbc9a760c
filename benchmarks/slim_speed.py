"""How much faster a model is once units or layers are cut out, beside what is predicted of it.

A prediction rests on the dense model's own time, part by part: a layer that is dropped takes its
time with it, and of the attention and feed-forward block of a layer that stays, a share that is the
share of heads or channels, and so of multiply-adds, that were removed. All else takes as long as
before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.slim_models import DENSE, FAMILY, Kept


@dataclass(frozen=True)
class Parts:
    """What parts of the dense model take of its time, each as a share of it all.

    Attributes:
        attention, ffn: of all layers.
        layers: of all layers with their norms and sums, attention and ffn among it.
    """

    attention: float
    ffn: float
    layers: float

    def speed_up(self, kept: Kept) -> float:
        """What is predicted of a model that has kept some of everything."""
        cut = self.attention * (1 - kept.heads) + self.ffn * (1 - kept.channels)
        return 1 / (1 - self.layers + float(kept.layers) * (self.layers - cut))


@dataclass(frozen=True)
class Speed:
    """Medians of one encoder, in seconds, and how much faster than the dense one it is.

    Attributes:
        predicted: by the dense model's time in parts.
    """

    seconds: float
    speed_up: float
    predicted: float

    @property
    def reached(self) -> float:
        """The share of the prediction that came true."""
        return self.speed_up / self.predicted


@torch.inference_mode()
def measure(
    models: Mapping[str, Any], kept: Mapping[str, Kept], source: Tensor, repeats: int
) -> tuple[Parts, dict[str, Speed]]:
    """Let all models hear ``source``, (B, samples), in turn, so that noise falls on all alike.

    Args:
        models: by their names in ``kept``, `DENSE` among them.
        repeats: times each, after once to warm up.
    """
    turns: list[dict[str, float]] = []
    parts: list[Parts] = []
    for _ in range(1 + repeats):
        turns.append({name: _seconds(model, source) for name, model in models.items()})
        parts.append(_parts(models[DENSE], source))
    middle = Parts(
        *(
            median(getattr(each, part) for each in parts[1:])
            for part in ("attention", "ffn", "layers")
        )
    )
    dense = [turn[DENSE] for turn in turns[1:]]
    found = {}
    for name in models:
        own = [turn[name] for turn in turns[1:]]
        faster = median(whole / part for whole, part in zip(dense, own))
        found[name] = Speed(median(own), faster, middle.speed_up(kept[name]))
    return middle, found


def _seconds(model: Any, source: Tensor) -> float:
    _wait_for(source)
    start = perf_counter()
    FAMILY.features(model, source, None)
    _wait_for(source)
    return perf_counter() - start


def _wait_for(source: Tensor) -> None:
    if source.is_cuda:
        torch.cuda.synchronize()


def _parts(model: Any, source: Tensor) -> Parts:
    with _timed(model, source) as stretches:
        stretches.begin("all")
        FAMILY.features(model, source, None)
        stretches.end("all")
    _wait_for(source)
    whole = stretches.seconds("all")
    return Parts(*(stretches.seconds(part) / whole for part in ("attention", "ffn", "layers")))


class _Stretches:
    """When parts of a forward pass begin and end, on the device that it runs on."""

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._begun: dict[str, list[Any]] = {}
        self._ended: dict[str, list[Any]] = {}

    def begin(self, part: str) -> None:
        self._begun.setdefault(part, []).append(self._now())

    def end(self, part: str) -> None:
        self._ended.setdefault(part, []).append(self._now())

    def seconds(self, part: str) -> float:
        """In all; on a GPU, once it is idle."""
        pairs = zip(self._begun[part], self._ended[part])
        if self._on_gpu:
            return sum(begin.elapsed_time(end) for begin, end in pairs) / 1e3
        return sum(end - begin for begin, end in pairs)

    def _now(self) -> Any:
        if not self._on_gpu:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@contextmanager
def _timed(model: Any, source: Tensor) -> Iterator[_Stretches]:
    """Within it, each layer notes when it, its attention and its feed-forward block run."""
    stretches = _Stretches(source.is_cuda)
    hooks = []
    for layer in model.encoder.layers:
        for part, first, last in (
            ("layers", layer, layer),
            ("attention", layer.self_attn, layer.self_attn),
            ("ffn", layer.fc1, layer.fc2),
        ):
            hooks.append(first.register_forward_pre_hook(_noting(stretches.begin, part)))
            hooks.append(last.register_forward_hook(_noting(stretches.end, part)))
    try:
        yield stretches
    finally:
        for hook in hooks:
            hook.remove()


def _noting(note: Callable[[str], None], part: str) -> Callable[..., None]:
    return lambda *_: note(part)
