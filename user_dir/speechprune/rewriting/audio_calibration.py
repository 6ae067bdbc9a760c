"""Recordings, with their labels or without, that a model of speech is measured on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch

from speechprune.checkpoint.file import digest
from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.inference import padded_batch, read_audio
from speechprune.errors import UserError
from speechprune.manifests.check import check_split, read_recordings
from speechprune.manifests.rows import read_column
from speechprune.rewriting.calibration import Calibration, Draw, Part


class AudioCalibration(Calibration):
    """Recordings drawn from a subset.

    Args:
        normalize, rate: how the model wants to hear them, see
            `speechprune.checkpoint.finetuned.listening`.
        labels: ending of the label file; None to read none.

    Raises:
        UserError: as `speechprune.manifests.check.check_split`.
    """

    what: ClassVar[str] = "utterances"
    unfit: ClassVar[str] = "too short for a frame"
    usual_max_tokens: ClassVar[int] = MAX_TOKENS

    def __init__(self, draw: Draw, *, normalize: bool, rate: int, labels: str | None) -> None:
        check_split(draw.data, draw.subset, labels, sample_rate=rate)
        self._manifest = draw.data / f"{draw.subset}.tsv"
        root, rows = read_recordings(self._manifest)
        lines = [""] * len(rows)
        if labels is not None:
            lines = read_column(draw.data, draw.subset, labels, len(rows))
        chosen = draw.of(len(rows))
        super().__init__(draw, [rows[index][1] for index in chosen])
        self._paths = [root / rows[index][0] for index in chosen]
        self._normalize, self._rate = normalize, rate
        self._labels = None if labels is None else [lines[index] for index in chosen]

    def described_source(self) -> dict[str, Any]:
        return {"manifest": digest(self._manifest)}

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

    def part(self, indices: list[int], device: torch.device) -> Part:
        audio = [read_audio(self._paths[i], self._rate) for i in indices]
        labels = () if self._labels is None else tuple(self._labels[i] for i in indices)
        batch = padded_batch(audio, normalize=self._normalize, device=device)
        return Part(batch["source"], batch["padding_mask"], labels)
