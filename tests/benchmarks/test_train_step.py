"""The step that is measured: it trains in every precision, and is judged by what is promised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.recognisers import RECOGNISERS, SMALL_ENCODER
from benchmarks.train_step import DTYPES, PROMISED_AT, Step, Task, Trainer, measure


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("variant", RECOGNISERS)
def test_a_step_trains(monkeypatch: pytest.MonkeyPatch, variant: str, precision: str) -> None:
    """fairseq's fp16 asks which device is in use; fp16 itself a CPU can do."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setitem(SMALL_ENCODER, "encoder_layers", 1)
    trainer = Trainer(variant, Task("cpu", precision, 1, SMALL_ENCODER))
    head, dtype = trainer.model.head.weight, DTYPES[precision]
    before = head.detach().clone()
    assert trainer.step().total > 0 and trainer.update == 1
    assert head.dtype == dtype and head.isfinite().all() and not torch.equal(head, before)
    copies = trainer.optimizer.fp32_params if precision != "fp32" else ()
    copies = list(copies.values()) if isinstance(copies, dict) else copies
    assert all(copy.dtype == torch.float32 for copy in copies)
    fc1 = trainer.model.encoder.encoder.layers[0].fc1
    assert fc1.weight.dtype == dtype
    assert (fc1.weight == 0).float().mean() == pytest.approx(
        0 if variant == "plain" else 0.1, abs=0.001
    )


class Timed:
    """A worker whose steps take a known time."""

    def __init__(self, variant: str, seconds: float, peak_memory: int) -> None:
        self.variant, self.seconds, self.peak_memory = variant, seconds, peak_memory

    def begin(self, task: Task) -> None:
        self.steps: list[Step] = []

    def step(self) -> None:
        warm = len(self.steps) >= 2
        self.steps.append(Step(self.seconds if warm else 100.0, 0.01))


@pytest.mark.parametrize(
    ("seconds", "memory", "length", "broken"),
    [
        (1.02, 1099, PROMISED_AT, False),
        (1.04, 1099, PROMISED_AT, True),
        (1.02, 1101, PROMISED_AT, True),
        (2.00, 2000, 10, False),
    ],
)
def test_masks_are_held_to_the_promise(
    seconds: float, memory: int, length: int, broken: bool
) -> None:
    workers = [Timed("plain", 1.0, 1000), Timed("ours", seconds, memory)]
    plain, ours = measure(workers, Task("cuda", "fp16", length, {}), 3)  # type: ignore[arg-type]
    assert (ours.step_ratio, ours.memory_ratio) == (seconds, memory / 1000)
    assert ours.breaks_promise is broken and not plain.breaks_promise
    assert not replace(ours, variant="sort").breaks_promise
