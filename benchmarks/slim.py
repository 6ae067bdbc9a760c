"""Speed, memory and size of models that have lost channels, heads and layers, beside predictions.

    python -m benchmarks.slim

wav2vec 2.0 base with random weights hears noise. Dense and slim models take turns, so that what
else the machine does falls on all alike. What arithmetic saves is predicted twice: by multiply-adds
of the whole encoder, and by the time that the dense model spends in what is cut out. Then memory
and loading, and what choosing heads and channels costs in training. Five minutes on two cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.harness import PRECISIONS, Report, device_option, machine, precisions_option
from benchmarks.recognisers import SMALL_ENCODER
from benchmarks.slim_choosing import EVERY, measure_choosing
from benchmarks.slim_files import Batch, load_each
from benchmarks.slim_models import DENSE, KEPT, cut, dense, write
from benchmarks.slim_speed import measure
from benchmarks.train_step import DTYPES, SAMPLE_RATE, Task
from speechprune.backbones.cost import encoder_cost

#: With `--quick`: less of everything.
_QUICK = {"encoder_layers": 2}


@click.command(help=__doc__)
@device_option
@precisions_option(PRECISIONS["cuda"])
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1),
    multiple=True,
    help="Utterances at once, one or several numbers; 1 by default, on a GPU 1 and 16.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    multiple=True,
    help="Threads, one or several numbers; 1 and 2 by default, on a GPU 1.",
)
@click.option("--seconds", type=click.IntRange(1), default=10, help="Length of each utterance; 10.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Times each; 5.")
@click.option("--quick", is_flag=True, help="Two layers and few repetitions, to try this out.")
@click.option("--save", type=click.Path(path_type=Path), help="File for the tables.")
def main(
    device: str,
    precisions: tuple[str, ...],
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    seconds: int,
    repeats: int,
    quick: bool,
    save: Path | None,
) -> None:
    on_gpu = device == "cuda"
    batches = batches or ((1, 16) if on_gpu else (1,))
    threads = threads or ((1,) if on_gpu else (1, 2))
    report = Report()
    report.tell(machine(device))
    settings = _QUICK if quick else {}
    whole = dense(settings)
    models = {name: cut(whole, kept) for name, kept in KEPT.items()}
    saved = _saved_multiply_adds(models, seconds)
    for number in threads:
        torch.set_num_threads(number)
        for precision in precisions:
            for utterances in batches:
                batch = Batch(device, DTYPES[precision], utterances, seconds * SAMPLE_RATE)
                report.tell(f"\n{_in_words(batch, precision, number)}")
                _tell_speed(report, models, saved, batch, 1 if quick else repeats)
    batch = Batch(device, DTYPES[precisions[0]], batches[-1], seconds * SAMPLE_RATE)
    report.tell(f"\n{_in_words(batch, precisions[0], threads[-1])}; each in a process of its own")
    _tell_files(report, models, batch, threads[-1])
    report.tell(f"\nchoosing by snip_momentum, once every {EVERY} updates; {precisions[0]}")
    tasks = [Task(device, precisions[0], times * seconds, settings) for times in (1, 3)]
    _tell_choosing(report, threads, tasks, repeats)
    if save is not None:
        report.save(save)


def _in_words(batch: Batch, precision: str, threads: int) -> str:
    size = f"{batch.utterances} x {batch.samples / SAMPLE_RATE:g} s"
    return f"{batch.device}, {threads} thread{'s' * (threads > 1)}, {precision}, {size}"


def _saved_multiply_adds(models: Mapping[str, Any], seconds: int) -> dict[str, float]:
    """How many times fewer each encoder has than the dense one."""
    counts = {name: encoder_cost(each, seconds).multiply_adds for name, each in models.items()}
    return {name: counts[DENSE] / count for name, count in counts.items()}


def _tell_speed(
    report: Report,
    models: Mapping[str, Any],
    saved: Mapping[str, float],
    batch: Batch,
    repeats: int,
) -> None:
    for model in models.values():
        model.to(batch.device, batch.dtype)
    parts, speeds = measure(models, KEPT, batch.source(), repeats)
    report.tell(
        f"of the dense model's time, layers take {parts.layers:.0%}: attention "
        f"{parts.attention:.0%}, FFN {parts.ffn:.0%}"
    )
    heads = ("kept", "time", "multiply-adds", "predicted", "measured", "reached", "promised")
    rows = report.table(heads, (14, 9))
    for name, speed in speeds.items():
        cells = [f"{speed.seconds * 1e3:.1f} ms", f"{saved[name]:.2f} x"]
        if name != DENSE:
            cells += [f"{speed.predicted:.2f} x", f"{speed.speed_up:.2f} x"]
            cells += [f"{speed.reached:.2f}", f"{KEPT[name].promised:.2f}"]
        rows.add(name, *cells)


def _tell_files(report: Report, models: Mapping[str, Any], batch: Batch, threads: int) -> None:
    heads = ("kept", "parameters", "file", "to load", "memory to load", "memory to run")
    rows = report.table(heads, (14, 0, 9, 8))
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{number}.pt" for number, name in enumerate(models)}
        for name, model in models.items():
            write(model.to("cpu", torch.float32), paths[name])
        warm_up = Path(folder) / "small.pt"
        write(dense(SMALL_ENCODER), warm_up)
        for name, loaded in load_each(paths, warm_up, batch, threads):
            rows.add(
                name,
                f"{loaded.parameters / 1e6:.1f} M",
                f"{loaded.size / 1e6:.0f} MB",
                f"{loaded.seconds:.2f} s",
                f"{loaded.to_load / 1e6:.0f} MB",
                f"{loaded.to_run / 1e6:.0f} MB",
            )


def _tell_choosing(
    report: Report, threads: Sequence[int], tasks: Sequence[Task], repeats: int
) -> None:
    rows = report.table(("batch", "threads", "step", "scores", "zeros", "choice", "of the step"))
    for number in threads:
        torch.set_num_threads(number)
        for task in tasks:
            found = measure_choosing(task, repeats)
            parts = (found.step, found.scores, found.zeros, found.choice)
            times = (f"{each * 1e3:.0f} ms" for each in parts)
            rows.add(f"{task.seconds} s", str(number), *times, f"{found.share:.1%}")


if __name__ == "__main__":
    main()
