"""A few recordings or sentences that a model is measured on before units are removed from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from speechprune.decoding.inference import batches
from speechprune.errors import UserError


@dataclass(frozen=True)
class Part:
    """As much of a batch as goes through a model at once.

    Attributes:
        source: audio, float32, or numbers of symbols, int64, (B, samples).
        padding_mask: bool, (B, samples), True where padded.
        labels: of each utterance, symbols parted by spaces; of each sentence, the number of its
            class, or its value; empty if none were read.
    """

    source: Tensor
    padding_mask: Tensor
    labels: tuple[Any, ...]


@dataclass(frozen=True)
class Draw:
    """What to draw from a subset.

    Attributes:
        data: manifest folder, or one of sentences.
        batches: how many, of ``batch_size`` utterances each; a smaller subset gives fewer.
        max_tokens: audio samples, or symbols, that go through a model at once, padding included; a
            longer utterance goes alone. It bounds the memory, and results depend on it by rounding
            only. None for as many as evaluation takes.
        seed: of the draw.
    """

    data: Path
    subset: str
    batches: int = 8
    batch_size: int = 8
    max_tokens: int | None = None
    seed: int = 0

    def of(self, count: int) -> list[int]:
        """Which of so many utterances are drawn, in the order of the draw."""
        order: list[int] = np.random.default_rng(self.seed).permutation(count).tolist()
        return order[: self.batches * self.batch_size]


class Calibration(ABC):
    """What was drawn from a subset, in the order of the draw.

    Args:
        lengths: of each in samples.
    """

    #: What is drawn, for messages; and what is wrong with one that no model can take.
    what: ClassVar[str]
    unfit: ClassVar[str]
    #: `Draw.max_tokens`, unless the draw says otherwise.
    usual_max_tokens: ClassVar[int]

    def __init__(self, draw: Draw, lengths: list[int]) -> None:
        self._draw, self._lengths = draw, lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def describe(self) -> dict[str, Any]:
        """For a provenance."""
        draw = self._draw
        return {
            **self.described_source(),
            "subset": draw.subset,
            self.what: len(self),
            "batch_size": draw.batch_size,
            "seed": draw.seed,
        }

    @abstractmethod
    def described_source(self) -> dict[str, Any]:
        """What `describe` says of the files that were drawn from."""

    @abstractmethod
    def part(self, indices: list[int], device: torch.device) -> Part:
        """Some of what was drawn, by number."""

    def batches(self, device: torch.device, is_taken: Callable[[int], Any]) -> Iterator[list[Part]]:
        """What was drawn for each batch, in parts.

        Args:
            is_taken: whether a model takes so many samples; others are passed over.

        Raises:
            UserError: a recording is missing, unreadable or truncated, or none can be taken.
        """
        taken = [i for i, length in enumerate(self._lengths) if is_taken(length)]
        if not taken:
            raise UserError(
                f"all {self.what} drawn from {self._draw.subset} are {self.unfit}; choose another "
                "subset"
            )
        size, most = self._draw.batch_size, self._draw.max_tokens or self.usual_max_tokens
        for first in range(0, len(self), size):
            batch = [i for i in taken if first <= i < first + size]
            if batch:
                parts = batches([self._lengths[i] for i in batch], most)
                yield [self.part([batch[i] for i in part], device) for part in parts]
