"""A few recordings that a model is measured on before units are removed from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprune.checkpoint.file import digest
from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.inference import batches, padded_batch, read_audio
from speechprune.errors import UserError
from speechprune.manifests.check import check_split, read_recordings
from speechprune.manifests.rows import read_column


@dataclass(frozen=True)
class Part:
    """As much of a batch as goes through a model at once.

    Attributes:
        source: float32, (B, samples).
        padding_mask: bool, (B, samples), True where padded.
        labels: of each utterance, symbols parted by spaces; empty if none were read.
    """

    source: Tensor
    padding_mask: Tensor
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Draw:
    """What to draw from a subset.

    Attributes:
        data: manifest folder.
        batches: how many, of ``batch_size`` utterances each; a smaller subset gives fewer.
        max_tokens: audio samples that go through a model at once, padding included; a longer
            utterance goes alone. It bounds the memory, and results depend on it by rounding only.
        seed: of the draw.
    """

    data: Path
    subset: str
    batches: int = 8
    batch_size: int = 8
    max_tokens: int = MAX_TOKENS
    seed: int = 0


class Calibration:
    """Recordings drawn from a subset, in the order of the draw.

    Args:
        normalize, rate: how the model wants to hear them, see
            `speechprune.checkpoint.finetuned.listening`.
        labels: ending of the label file; None to read none.

    Raises:
        UserError: as `speechprune.manifests.check.check_split`.
    """

    def __init__(self, draw: Draw, *, normalize: bool, rate: int, labels: str | None) -> None:
        check_split(draw.data, draw.subset, labels, sample_rate=rate)
        manifest = draw.data / f"{draw.subset}.tsv"
        root, rows = read_recordings(manifest)
        lines = [""] * len(rows)
        if labels is not None:
            lines = read_column(draw.data, draw.subset, labels, len(rows))
        order = np.random.default_rng(draw.seed).permutation(len(rows)).tolist()
        chosen = order[: draw.batches * draw.batch_size]
        self._paths = [root / rows[index][0] for index in chosen]
        self._frames = [rows[index][1] for index in chosen]
        self._normalize, self._rate, self._draw = normalize, rate, draw
        self._labels = None if labels is None else [lines[index] for index in chosen]
        self._manifest = manifest

    def __len__(self) -> int:
        return len(self._paths)

    def describe(self) -> dict[str, Any]:
        """For a provenance."""
        draw = self._draw
        return {
            "manifest": digest(self._manifest),
            "subset": draw.subset,
            "utterances": len(self),
            "batch_size": draw.batch_size,
            "seed": draw.seed,
        }

    def check_labels(self, symbols: Collection[str], model: str) -> None:
        """Raise UserError if a label is of a symbol that a ``model`` does not know.

        Args:
            symbols: those that it knows.
        """
        known = set(symbols)
        for path, line in zip(self._paths, self._labels or ()):
            strange = [symbol for symbol in line.split() if symbol not in known]
            if strange:
                raise UserError(
                    f"the labels of {path} in {self._draw.subset} have the symbol {strange[0]!r}, "
                    f"which {model} does not know; choose another subset"
                )

    def batches(
        self, device: torch.device, is_audible: Callable[[int], Any]
    ) -> Iterator[list[Part]]:
        """The recordings of each batch, in parts.

        Args:
            is_audible: whether so many samples are enough for a frame; other recordings are passed
                over.

        Raises:
            UserError: a recording is missing, unreadable or truncated, or all are too short.
        """
        audible = [i for i, frames in enumerate(self._frames) if is_audible(frames)]
        if not audible:
            raise UserError(
                f"every recording drawn from {self._draw.subset} is too short for a frame; choose "
                "another subset"
            )
        size = self._draw.batch_size
        for first in range(0, len(self), size):
            batch = [i for i in audible if first <= i < first + size]
            if batch:
                parts = batches([self._frames[i] for i in batch], self._draw.max_tokens)
                yield [self._part([batch[i] for i in part], device) for part in parts]

    def _part(self, indices: list[int], device: torch.device) -> Part:
        audio = [read_audio(self._paths[i], self._rate) for i in indices]
        labels = () if self._labels is None else tuple(self._labels[i] for i in indices)
        batch = padded_batch(audio, normalize=self._normalize, device=device)
        return Part(batch["source"], batch["padding_mask"], labels)
