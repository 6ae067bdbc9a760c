"""How long commands take to their first output, as whole processes.

    python -m benchmarks.start_up --runs 5

Each line shows a command, the seconds until it printed something (the best and the median of some
runs), and whether it imported torch and fairseq, which take about one and three seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks.harness import Report, machine
from speechprune.masking.bits import PackedMask
from speechprune.masking.mask_set import MaskSet
from speechprune.recipes.nano import ASSET

#: The console script, which beside the time says what it imported, if it is asked.
PROGRAM = """
import os, sys
from speechprune_command import main
sys.argv[0] = "speechprune"
try:
    main()
finally:
    if "SLOW_IMPORTS" in os.environ:
        with open(os.environ["SLOW_IMPORTS"], "w") as file:
            file.write(" ".join({"torch", "fairseq"} & set(sys.modules)))
"""

LAYERS, CHANNELS = 24, 1024
SPLITS = ("--train", "12", "--valid", "4", "--test", "4")


@click.command(help=__doc__)
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True)
def main(runs: int) -> None:
    report = Report()
    report.tell(f"{machine()}; {runs} runs each\n")
    rows = report.table(["best s", "median", "torch", "fairseq", "command"], (7, 7), left=0)
    with tempfile.TemporaryDirectory() as folder:
        for words, environment in commands(Path(folder)):
            imported = slow_imports(words, environment, Path(folder))
            seconds = [seconds_to_output(words, environment, Path(folder)) for _ in range(runs)]
            slow = ("yes" if name in imported else "no" for name in ("torch", "fairseq"))
            times = (f"{min(seconds):.2f}", f"{median(seconds):.2f}")
            rows.add(*times, *slow, shown(words, environment))


def commands(folder: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Command lines to run in ``folder``, with variables to set; their files are made before."""
    plain = ("--help", "--version", "completion bash", "layers --help", "recipe parp --help")
    yield from ((line.split(), {}) for line in plain)
    for line in ("speechprune m", "speechprune recipe parp --"):
        words = line.split()
        yield (
            [],
            {
                "_SPEECHPRUNE_COMPLETE": "bash_complete",
                "COMP_WORDS": line,
                "COMP_CWORD": str(len(words) - 1),
            },
        )
    write_masks_and_matrix(folder)
    for line in (
        "layers search matrix.npy --drop 12",
        "masks stats one.safetensors",
        "masks compare one.safetensors two.safetensors",
        "masks iou --own one.safetensors two.safetensors",
        "prepare synthetic --out data --overwrite " + " ".join(SPLITS),
        "manifest check data",
        "manifest stats data",
        "manifest subset data subset --minutes 0.1 --overwrite",
    ):
        yield line.split(), {}
    train(folder)
    yield "compare run --subset test".split(), {}
    masks = ("--by", "global-magnitude", "--sparsity", "0.5")
    yield ["policies"], {}
    yield "train --config-name demo/nano --cfg job".split(), {}
    yield ["masks", "make", str(ASSET), "made.safetensors", *masks], {}
    yield "evaluate run/checkpoints/checkpoint_last.pt --data data --subset test".split(), {}


def write_masks_and_matrix(folder: Path) -> None:
    """Two masks of a large model's feed-forward weights, and a similarity matrix of its layers."""
    random = np.random.default_rng(0)
    values = random.random((LAYERS + 1, LAYERS + 1))
    np.save(folder / "matrix.npy", (values + values.T) / 2)
    shape = (4 * CHANNELS, CHANNELS)
    for name in ("one", "two"):
        packed = {
            f"encoder.layers.{layer}.fc1.weight": PackedMask(
                random.integers(0, 256, shape[0] * shape[1] // 8, dtype=np.uint8), shape
            )
            for layer in range(LAYERS)
        }
        MaskSet.from_packed(packed).save(folder / f"{name}.safetensors")


def train(folder: Path) -> None:
    """A finished run of ten updates in ``folder``/run, which was compared once."""
    settings = ("task.data=data", f"model.w2v_path={ASSET}", "optimization.max_update=10")
    for words in (
        ["train", "--config-name", "demo/nano", "hydra.run.dir=run", *settings],
        ["compare", "run", "--subset", "test"],
    ):
        run(words, {}, folder)


def start(words: Sequence[str]) -> list[str]:
    """What starts a process with a command line."""
    return [sys.executable, "-c", PROGRAM, *words]


def run(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
    """Run a command to its end; ends the program with what it printed if it fails."""
    ran = subprocess.run(
        start(words),
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ran.returncode:
        raise SystemExit(f"{shown(words, environment)} failed: {ran.stdout[-2000:]}")


def seconds_to_output(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> float:
    """The time from the start of a process to the first that it prints."""
    begin = time.perf_counter()
    with subprocess.Popen(
        start(words),
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - begin
        rest = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{shown(words, environment)} failed: {(first + rest).decode()}")
    return seconds


def slow_imports(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> list[str]:
    """Which of torch and fairseq a command imported; files that it reads are cached by then."""
    noted = folder / "slow_imports"
    run(words, {**environment, "SLOW_IMPORTS": str(noted)}, folder)
    return noted.read_text().split()


def shown(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """A command line as the table shows it."""
    if environment:
        return f"(completing) {environment['COMP_WORDS']}<TAB>"
    names = [
        Path(word).name if os.sep in word and Path(word).is_absolute() else word for word in words
    ]
    return " ".join(["speechprune", *names])


if __name__ == "__main__":
    main()
