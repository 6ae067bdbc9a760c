"""Models that hear the same audio by turns, each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from speechprune.benchmarking.hearing import Source, serve
from speechprune.errors import UserError
from speechprune.files import kind_of

#: How long a process may take to end by itself, in seconds.
_PATIENCE = 10.0
_SEED = 0


@dataclass(frozen=True)
class Measured:
    """What one model takes.

    Attributes:
        path: of its file.
        size: of that, in bytes.
        parameters: of the model.
        multiply_adds: for the one recording.
        latency: seconds for the one recording, alone; the median.
        real_time_factor: that, by the length of the recording.
        throughput: seconds of audio heard per second, in batches; the median.
        peak: the most memory that its process took, in bytes.
    """

    path: Path
    size: int
    parameters: int
    multiply_adds: int
    latency: float
    real_time_factor: float
    throughput: float
    peak: int


@dataclass(frozen=True)
class Audio:
    """What models are to hear.

    Attributes:
        one: the recording that latency is of, float32 (samples,).
        batch: the recordings that throughput is of.
        rate: in Hz.
    """

    one: np.ndarray
    batch: Sequence[np.ndarray]
    rate: int

    @classmethod
    def noise(cls, seconds: float, batch: int, rate: int) -> Audio:
        """Recordings of equal length, the same each time."""
        generator = np.random.default_rng(_SEED)
        samples = round(seconds * rate)
        made = [0.1 * generator.standard_normal(samples).astype(np.float32) for _ in range(batch)]
        return cls(made[0], made, rate)

    @classmethod
    def recordings(cls, folder: Path, subset: str, batch: int, rate: int) -> Audio:
        """Recordings of a manifest, spread evenly over their lengths; the one is of middle length.

        Raises:
            UserError: a recording or the manifest cannot be read.
        """
        from speechprune.decoding.inference import read_audio
        from speechprune.manifests.manifest import read_split

        split = read_split(folder, subset)
        ordered = sorted(split.utterances, key=lambda utterance: utterance.frames)
        count = min(batch, len(ordered))
        places = [(2 * i + 1) * len(ordered) // (2 * count) for i in range(count)]
        heard = [read_audio(split.root / ordered[place].path, rate) for place in places]
        middle = read_audio(split.root / ordered[len(ordered) // 2].path, rate)
        return cls(middle, heard, rate)

    def seconds(self, audio: Sequence[np.ndarray]) -> float:
        """How long some recordings are in all."""
        return sum(len(samples) for samples in audio) / self.rate


class _Process:
    """A model in a process of its own."""

    def __init__(self, source: Source, process: Any, pipe: Connection) -> None:
        self.source, self._process, self._pipe = source, process, pipe

    def ask(self, *request: Any) -> Any:
        """The answer to a request of `serve`; raises UserError if there is none."""
        try:
            self._pipe.send(request)
            answer, wrong = self._pipe.recv()
        except (EOFError, OSError) as error:
            # A process that refuses its model says why before it ends.
            wrong = self._last_words()
            if wrong is None:
                self._process.join(_PATIENCE)
                raise UserError(
                    f"{self.source.path} could not be measured: its process ended with status "
                    f"{self._process.exitcode}"
                ) from error
        if wrong is not None:
            raise UserError(wrong)
        return answer

    def _last_words(self) -> str | None:
        try:
            return str(self._pipe.recv()[1]) if self._pipe.poll() else None
        except (EOFError, OSError):
            return None


def measure(
    paths: Sequence[Path],
    *,
    task: str | None = None,
    seconds: float = 10.0,
    batch: int = 4,
    split: tuple[Path, str] | None = None,
    threads: int | None = None,
    repeats: int = 5,
) -> list[Measured]:
    """Measure models side by side, on the CPU.

    In each round each model hears one recording and then a batch, so that whatever else the machine
    does falls on all alike; a first round is not counted.

    Args:
        paths: checkpoints, banks and ONNX files.
        task: of banks.
        seconds: length of the noise that is heard.
        batch: recordings in a batch.
        split: a folder of manifests and the name of one, to hear recordings in place of noise.
        threads: that a model may use; None for all cores.
        repeats: rounds.

    Raises:
        UserError: a model cannot be read or run, models listen at several rates, or a recording
            cannot be read or is too short.
    """
    for path in paths:
        if not path.is_file():
            problem = "is a folder: name the model in it" if path.is_dir() else "is missing"
            raise UserError(f"{path} {problem}")
    banks = [path for path in paths if kind_of(path) == "safetensors"]
    if task is not None and not banks:
        raise UserError(f"no model is a bank, of which --task {task} would be one: leave it out")
    threads = threads or cores()
    sources = [Source(path, task if path in banks else None, threads) for path in paths]
    with ExitStack() as stack:
        processes = [stack.enter_context(_running(source)) for source in sources]
        rates = {process.ask("rate") for process in processes}
        if len(rates) > 1:
            raise UserError("models that listen at several sample rates hear no audio alike")
        (rate,) = rates
        audio = (
            Audio.noise(seconds, batch, rate)
            if split is None
            else Audio.recordings(*split, batch, rate)
        )
        shortest = min(map(len, (audio.one, *audio.batch)))
        for process in processes:
            if not process.ask("frames", shortest):
                raise UserError(
                    f"{process.source.path} makes no frame of a recording of {shortest} samples; "
                    "leave short ones out of the subset"
                )
        rounds = [[_heard(process, audio) for process in processes] for _ in range(1 + repeats)]
        return [
            _measured(process, audio, times) for process, times in zip(processes, zip(*rounds[1:]))
        ]


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def _running(source: Source) -> Iterator[_Process]:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, source), daemon=True)
    process.start()
    there.close()
    try:
        yield _Process(source, process, here)
    finally:
        here.close()
        process.join(_PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()


def _heard(process: _Process, audio: Audio) -> tuple[float, float]:
    """Seconds for the one recording, and for the batch."""
    return process.ask("hear", [audio.one]), process.ask("hear", list(audio.batch))


def _measured(process: _Process, audio: Audio, times: Sequence[tuple[float, float]]) -> Measured:
    alone, together = (median(each) for each in zip(*times))
    path = process.source.path
    peak = process.ask("peak")
    facts = process.ask("facts", len(audio.one))
    return Measured(
        path=path,
        size=path.stat().st_size,
        parameters=facts["parameters"],
        multiply_adds=facts["multiply_adds"],
        latency=alone,
        real_time_factor=alone / audio.seconds([audio.one]),
        throughput=audio.seconds(audio.batch) / together,
        peak=peak,
    )
