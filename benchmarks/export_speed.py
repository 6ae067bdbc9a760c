"""Speed, memory and size of a dense model, a slim one, and their ONNX files in float32 and 8 bits.

    python -m benchmarks.export_speed

wav2vec 2.0 base with random weights and a CTC head hears noise; the slim one has half of the
feed-forward channels, three quarters of the heads and eight of twelve layers. Each model is in a
process of its own, and all take turns. Some minutes to export, and then one for each five rounds,
on two quiet cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.harness import Report, machine
from speechprune.benchmarking.measuring import measure
from speechprune.benchmarking.report import draw, in_words


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(1), default=2, help="Threads of each model; 2.")
@click.option("--seconds", type=click.IntRange(1), default=10, help="Length of the audio; 10.")
@click.option("--batch", type=click.IntRange(1), default=4, help="Recordings in a batch; 4.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Rounds; 5.")
@click.option("--quick", is_flag=True, help="A tiny model and one round, to try this out.")
@click.option("--save", type=click.Path(path_type=Path), help="File for the table.")
@click.option("--figure", type=click.Path(path_type=Path), help="File for the figure.")
def main(
    threads: int,
    seconds: int,
    batch: int,
    repeats: int,
    quick: bool,
    save: Path | None,
    figure: Path | None,
) -> None:
    # The processes that measure import this file, and what it imports would count as theirs.
    from benchmarks.exported_models import write_files

    report = Report()
    report.tell(f"{machine()}; {threads} threads for each model, 1 and {batch} x {seconds} s\n")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), small=quick)
        conditions: dict[str, Any] = {
            "seconds": seconds,
            "batch": batch,
            "threads": threads,
            "repeats": 1 if quick else repeats,
        }
        found = measure(paths, **conditions)
    for line in in_words(found).splitlines():
        report.tell(line)
    if figure is not None:
        draw(found, figure, conditions)
    if save is not None:
        report.save(save)


if __name__ == "__main__":
    main()
