"""Peak memory while a million rows of Common Voice are prepared.

    python -m benchmarks.prepare_memory

The clips are hard links to a few short FLAC files, so that rows are what is measured.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from pathlib import Path

import numpy as np

from speechprune.manifests.audio import write_flac
from speechprune.manifests.corpora.common_voice import CommonVoice
from speechprune.manifests.preparation import prepare

_FILES = 40  # a file takes at most 65,000 links
_SPEAKERS = 50_000


def main() -> None:
    """Make the folder, prepare it, and print the peak memory of this process at each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        root = _write(Path(folder) / "en", rows)
        _tell("after importing what prepares")
        corpus = CommonVoice().read(root)
        _tell(f"after reading {rows:,} rows")
        prepare(corpus, Path(folder) / "out")
        _tell("after preparing them")


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


def _tell(when: str) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{peak / 1e6:6.0f} MB  {when}", flush=True)


if __name__ == "__main__":
    main()
