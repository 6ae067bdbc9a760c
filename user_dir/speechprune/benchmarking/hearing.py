"""A process that hears with one model: what it takes in memory is the model's alone.

It imports what its model needs. PyTorch and fairseq are not among that for an ONNX file.
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from speechprune.errors import UserError
from speechprune.exporting.onnx_session import OnnxSession, is_onnx
from speechprune.workers import follow_parent


@dataclass(frozen=True)
class Source:
    """A model to hear with.

    Attributes:
        path: a checkpoint, a bank or an ONNX file.
        task: of a bank.
        threads: that it may use.
    """

    path: Path
    task: str | None
    threads: int


class Hearer(ABC):
    """A model in this process."""

    #: In Hz.
    rate: int

    @abstractmethod
    def frame_count(self, samples: int) -> int:
        """The frames of a recording of so many samples; 0 if it is too short."""

    @abstractmethod
    def seconds(self, audio: Sequence[np.ndarray]) -> float:
        """What it takes to make scores of a batch of recordings, float32 (samples,)."""

    @abstractmethod
    def facts(self, samples: int) -> dict[str, int]:
        """``parameters`` and ``multiply_adds`` for a recording; the model is of no use then."""


def serve(pipe: Connection, source: Source) -> None:
    """Answer one request after another, until there are no more: ("rate",), ("frames",
    samples), ("hear", audio), ("peak",) or ("facts", samples).

    Answers are pairs: what was asked for, and None; or None, and what is wrong.
    """
    follow_parent()
    try:
        hearer = _hearer(source)
        answers: Mapping[str, Any] = {
            "rate": lambda: hearer.rate,
            "frames": hearer.frame_count,
            "hear": hearer.seconds,
            "peak": _peak,
            "facts": hearer.facts,
        }
        while True:
            name, *arguments = pipe.recv()
            pipe.send((answers[name](*arguments), None))
    except EOFError:
        return
    except UserError as error:
        pipe.send((None, str(error)))
    except MemoryError:
        pipe.send((None, f"{source.path} takes more memory than there is"))


def _peak() -> int:
    """The most memory that this process has taken, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _hearer(source: Source) -> Hearer:
    # Before libraries are loaded that read them once.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(source.threads)
    if not is_onnx(source.path):
        return _FromCheckpoint(source)
    return _FromOnnx(source)


class _FromOnnx(Hearer):
    def __init__(self, source: Source) -> None:
        self._session = OnnxSession(source.path, source.threads)
        self._told = self._session.description
        self.rate = self._told.sample_rate

    def seconds(self, audio: Sequence[np.ndarray]) -> float:
        start = perf_counter()
        lengths = np.array([len(samples) for samples in audio])
        batch = np.zeros((len(audio), lengths.max()), np.float32)
        for place, samples in zip(batch, audio):
            place[: len(samples)] = self._normalized(samples)
        self._session.run(batch, lengths)
        return perf_counter() - start

    def _normalized(self, samples: np.ndarray) -> np.ndarray:
        if not self._told.normalize:
            return samples
        centred: np.ndarray = samples - samples.mean()
        return centred / np.sqrt(np.square(centred).mean() + 1e-5)

    def frame_count(self, samples: int) -> int:
        return self._session.frame_count(samples)

    def facts(self, samples: int) -> dict[str, int]:
        costs = self._told.costs
        return {
            "parameters": self._told.parameters,
            "multiply_adds": costs.multiply_adds(samples),
        }


class _FromCheckpoint(Hearer):
    def __init__(self, source: Source) -> None:
        import torch

        # As the commands do: what newer libraries think of fairseq's code helps nobody here.
        warnings.filterwarnings("ignore", category=FutureWarning)
        from speechprune.decoding.bank import load_task
        from speechprune.decoding.inference import sample_rate
        from speechprune.models.loading import as_recogniser

        torch.set_num_threads(source.threads)
        self._loaded = as_recogniser(load_task(source.path, source.task))
        # Where ONNX files are run.
        self._loaded.model.to("cpu")
        self.rate = sample_rate(self._loaded)

    def seconds(self, audio: Sequence[np.ndarray]) -> float:
        import torch

        from speechprune.decoding.inference import padded

        start = perf_counter()
        with torch.inference_mode():
            self._loaded.model(**padded(self._loaded, audio))
        return perf_counter() - start

    def frame_count(self, samples: int) -> int:
        return self._loaded.frame_count(samples)

    def facts(self, samples: int) -> dict[str, int]:
        from speechprune.decoding.inference import count_parameters
        from speechprune.exporting.onnx_cost import costs_of
        from speechprune.exporting.onnx_graph import make_traceable
        from speechprune.models.sites import encoder_of_model, output_layer_of

        model: Any = self._loaded.model
        parameters = count_parameters(model)
        if hasattr(model, "fold"):
            model.fold()
        make_traceable(model)
        head: Any = output_layer_of(model)
        costs = costs_of(encoder_of_model(model), head)
        return {"parameters": parameters, "multiply_adds": costs.multiply_adds(samples)}
