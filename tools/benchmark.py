"""`speechprune benchmark`: speed, memory and size of models side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

import click

from speechprune.tools._options import Number, whole_number

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=_PATH)
@click.option("--task", metavar="NAME", help="Task to use of a bank.")
@click.option(
    "--seconds",
    default=10.0,
    show_default=True,
    type=Number(0.1, 600),
    help="Length of the noise that is heard, without --data.",
)
@click.option("--data", type=_PATH, help="Folder of manifests with recordings to hear.")
@click.option("--subset", help="Name of the manifest, such as test-clean.")
@click.option(
    "--batch",
    default=4,
    show_default=True,
    type=whole_number(1, 1024),
    help="Recordings in a batch, of which throughput is measured.",
)
@click.option(
    "--threads",
    type=whole_number(1, 1024),
    help="Threads of a model; by default one for each core.",
)
@click.option(
    "--repeats", default=5, show_default=True, type=whole_number(1), help="Rounds to measure."
)
@click.option("--figure", type=_PATH, metavar="FILE", help="Figure to draw: .png, .pdf or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    models: tuple[Path, ...],
    task: Optional[str],
    seconds: float,
    data: Optional[Path],
    subset: Optional[str],
    batch: int,
    threads: Optional[int],
    repeats: int,
    figure: Optional[Path],
    as_json: bool,
) -> None:
    """Measure CTC models side by side on the CPU, each in a process of its own.

    A MODEL is a checkpoint, a bank or an ONNX file of `speechprune export onnx`.

    Latency is the time for one recording alone, the real-time factor that time by the recording's
    length, and throughput the seconds of audio that are heard per second in batches. Each is the
    median of some rounds, in which all models take turns. Memory is the most that a model's process
    took. How much faster a model is, and its share of bytes, are those beside the first one.
    """
    from speechprune.benchmarking.measuring import cores, measure
    from speechprune.benchmarking.report import describe, draw, in_words
    from speechprune.figures import check_figure_path

    if (data is None) != (subset is None):
        raise click.UsageError("--data and --subset go together.")
    if figure is not None:
        check_figure_path(figure)
    split = None if data is None or subset is None else (data, subset)
    found = measure(
        models,
        task=task,
        seconds=seconds,
        batch=batch,
        split=split,
        threads=threads,
        repeats=repeats,
    )
    heard = {"seconds": seconds} if split is None else {"data": str(data), "subset": subset}
    conditions = {**heard, "batch": batch, "threads": threads or cores(), "repeats": repeats}
    if figure is not None:
        draw(found, figure, conditions)
    if not as_json:
        click.echo(in_words(found))
        return
    click.echo(json.dumps(describe(found, conditions), indent=2))
