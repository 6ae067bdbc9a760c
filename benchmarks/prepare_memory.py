"""Peak memory while rows of Common Voice's tables are prepared.

    python -m benchmarks.prepare_memory --rows 1000000

The clips are hard links to a few short FLAC files, so that rows are what is measured.
"""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path

import click
import numpy as np

from benchmarks.harness import Report, Rows
from speechprune.manifests.audio import write_flac
from speechprune.manifests.corpora.common_voice import CommonVoice
from speechprune.manifests.preparation import prepare

_FILES = 40  # a file takes at most 65,000 links
_SPEAKERS = 50_000


@click.command(help=__doc__)
@click.option("--rows", type=click.IntRange(3), default=100_000, show_default=True)
def main(rows: int) -> None:
    table = Report().table(["peak", "of this process"], (7,), left=0)
    with tempfile.TemporaryDirectory() as folder:
        root = _write(Path(folder) / "en", rows)
        _tell(table, "after importing what prepares")
        corpus = CommonVoice().read(root)
        _tell(table, f"after reading {rows:,} rows")
        prepare(corpus, Path(folder) / "out")
        _tell(table, "after preparing them")


def _write(root: Path, rows: int) -> Path:
    (root / "clips").mkdir(parents=True)
    for index in range(_FILES):
        write_flac(root / f"{index}.flac", np.zeros(1600, dtype=np.float32))
    files = {name: (root / f"{name}.tsv").open("w") for name in ("train", "dev", "test")}
    for file in files.values():
        file.write("client_id\tpath\tsentence\n")
    for index in range(rows):
        clip = f"common_voice_en_{20_000_000 + index}.flac"
        os.link(root / f"{index % _FILES}.flac", root / "clips" / clip)
        split = ("train", "dev", "test")[max(0, index - rows + 3)]
        sentence = f"The quick brown fox number {index} jumps over the lazy dog."
        files[split].write(f"{index % _SPEAKERS:0128x}\t{clip}\t{sentence}\n")
    for file in files.values():
        file.close()
    return root


def _tell(table: Rows, when: str) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    table.add(f"{peak / 1e6:.0f} MB", when)


if __name__ == "__main__":
    main()
