"""A bank of a wav2vec 2.0 of base size: bytes of masks, seconds of a switch, and peak memory.

Weights and masks are random; what differs between two masks is drawn too. Memory is that of a
process of its own, beyond what it had before the model was built.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import RESULTS, Report, device_option, in_words, machine, spread
from benchmarks.memory import forget_peak, peak
from benchmarks.slim_models import FAMILY, dense
from speechprune.backbones import LAYER_ROLES
from speechprune.bank.bank import Bank, add_task, create_bank
from speechprune.bank.switching import Switch
from speechprune.bank.task import Task
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.overlap import overlap

#: What is promised: of the entropy, of a switch on two cores and on a GPU, of the model's memory.
OF_ENTROPY, SECONDS, OF_MEMORY = 1.05, {"cpu": 0.05, "cuda": 0.002}, 1.15
_FFN = ("ffn.in", "ffn.out")
#: The width of the column of names.
_NAMES = 20


@dataclass(frozen=True)
class Masks:
    """Random masks of several tasks.

    Attributes:
        roles: of the masked tensors.
        density: share kept.
        redrawn: share of the entries of the first task's masks that others draw anew.
    """

    name: str
    roles: Sequence[str]
    density: float
    redrawn: float

    def of_tasks(self, model: nn.Module, count: int) -> Iterator[MaskSet]:
        """One task's after another's."""
        first: dict[str, Tensor] = {}
        for number in range(count):
            random = torch.Generator().manual_seed(number)
            found = {}
            for site in FAMILY.sites(model, self.roles):
                shape = getattr(site.module, site.tensor).shape
                mask = torch.rand(shape, generator=random) < self.density
                if number:
                    drawn = torch.rand(shape, generator=random) < self.redrawn
                    mask = torch.where(drawn, mask, first[site.name])
                found[site.name] = mask
            first = first or found
            yield MaskSet(found)


KINDS = (
    Masks("FFN 4 %", _FFN, 0.96, 1.0),
    Masks("FFN 10 %", _FFN, 0.9, 1.0),
    Masks("FFN 10 %, alike", _FFN, 0.9, 0.25),
    Masks("FFN 10 %, very alike", _FFN, 0.9, 0.05),
    Masks("all 30 %", LAYER_ROLES, 0.7, 1.0),
    Masks("all 70 %, alike", LAYER_ROLES, 0.3, 0.25),
)


def make(folder: Path, kind: Masks, model: nn.Module, count: int) -> Bank:
    """A bank with as many tasks; each has a head for 32 symbols."""
    path = folder / f"{kind.name.replace(' ', '-')}-{count}.bank"
    base = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    bank = create_bank(path, base, {"task": {}, "model": {}})
    head = {"head": np.zeros((32, 768), dtype=np.float32)}
    for number, masks in enumerate(kind.of_tasks(model, count)):
        bank = add_task(path, Task(f"task{number}", masks, head))
    return bank


def switches(bank: Bank, model: nn.Module, device: str, count: int) -> list[float]:
    """Seconds of ``count`` switches among the tasks of a bank, each from one to another."""
    switch = Switch(bank, model.to(device).state_dict())
    random = np.random.default_rng(0)
    names = bank.names
    taken = []
    for number in range(count):
        others = [name for name in names if name != switch.current]
        name = others[random.integers(len(others))] if number >= len(names) else names[number]
        start = perf_counter()
        switch.use(name)
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(perf_counter() - start)
    return taken


def peak_of_switching(path: Path, device: str) -> float:
    """The peak memory of a process that switches among all tasks, in models; measured in another
    process, which calls `_measure_peak`."""
    command = [sys.executable, "-m", "benchmarks.bank", "--peak-of", str(path), "--device", device]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(found.stdout.splitlines()[-1]))


def _measure_peak(path: Path, device: str) -> float:
    torch.zeros(1, device=device)
    forget_peak(device)
    before = peak(device)
    model = dense({}).to(device)
    forget_peak(device)
    size = peak(device) - before
    bank = Bank(path)
    switches(bank, model, device, 2 * len(bank.names))
    return (peak(device) - before) / size


def show_bytes(report: Report, folder: Path, model: nn.Module) -> dict[str, Bank]:
    table = report.table(
        ("masks", "cosine", "weights", "at 1 bit", "first task", "next task", "of the entropy"),
        (_NAMES,),
    )
    banks = {}
    for kind in KINDS:
        bank = banks[kind.name] = make(folder, kind, model, 3)
        first, second = (bank.masks(name) for name in bank.names[:2])
        bound = bank.task(bank.names[0]).entropy_bytes
        own, beside = (bank.sizes(name).masks for name in bank.names[:2])
        table.add(
            kind.name,
            f"{overlap(first, second).cosine:.3f}",
            f"{first.tally.total / 1e6:.1f} M",
            f"{first.nbytes / 1e6:.2f} MB",
            f"{own / 1e6:.2f} MB",
            f"{beside / 1e6:.2f} MB",
            f"{own / bound:.3f}",
        )
    return banks


def show_switches(report: Report, banks: dict[str, Bank], device: str, count: int) -> None:
    heads = ("masks", "first use", "again: median", "least", "most")
    table = report.table(heads, (_NAMES, 9, 13, 9, 9))
    for name, bank in banks.items():
        taken = switches(bank, dense({}), device, count)
        first, again = taken[1:3], taken[3:]
        table.add(name, in_words(median(first)), *map(in_words, spread(again)))


def show_other_ways(report: Report, model: nn.Module, folder: Path) -> None:
    """What a switch takes without a bank: reading another checkpoint of all weights."""
    path = folder / "whole.pt"
    torch.save(model.state_dict(), path)
    taken = []
    for _ in range(5):
        start = perf_counter()
        model.load_state_dict(torch.load(path, mmap=True, weights_only=True))
        taken.append(perf_counter() - start)
    report.tell(f"loading a checkpoint of all weights instead: {in_words(median(taken))}")


def show_memory(report: Report, folder: Path, model: nn.Module, device: str) -> None:
    table = report.table(("tasks", "bank", "peak memory, in models"), (5, 8))
    for count in (2, 11, 33):
        bank = make(folder, KINDS[1], model, count)
        size = os.path.getsize(bank.path)
        table.add(str(count), f"{size / 1e6:.0f} MB", f"{peak_of_switching(bank.path, device):.3f}")


@click.command()
@device_option
@click.option("--switches", "count", default=23, show_default=True, help="Switches of each kind.")
@click.option("--save", is_flag=True, help="Write the tables to benchmarks/results.")
@click.option("--peak-of", type=click.Path(path_type=Path), hidden=True)
def main(device: str, count: int, save: bool, peak_of: Path | None) -> None:
    """Print bytes, seconds and peak memory of banks of base size."""
    if peak_of is not None:
        click.echo(json.dumps(_measure_peak(peak_of, device)))
        return
    report = Report()
    report.tell(machine(device))
    model = dense({})
    with TemporaryDirectory() as name:
        folder = Path(name)
        report.tell(f"\nBytes of masks; at most {OF_ENTROPY} of the entropy is promised\n")
        banks = show_bytes(report, folder, model)
        limit = in_words(SECONDS[device])
        report.tell(f"\nA switch from one task to another; under {limit} is promised for FFN\n")
        show_switches(report, banks, device, count)
        show_other_ways(report, model, folder)
        report.tell(f"\nPeak memory of {KINDS[1].name}; at most {OF_MEMORY} is promised\n")
        show_memory(report, folder, model, device)
    if save:
        report.save(RESULTS / f"bank_{device}.txt")


if __name__ == "__main__":
    main()
