"""Sentences, with their classes or values or without, that a model of text is measured on."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch.nn.utils.rnn import pad_sequence

from speechprune.backbones.roberta import PAD
from speechprune.checkpoint.file import PathLike, digest
from speechprune.decoding import MAX_SYMBOLS
from speechprune.decoding.sentences import read_labelled, read_texts
from speechprune.models.loading import LoadedSentences
from speechprune.rewriting.calibration import Calibration, Draw, Part

#: What fairseq's data set calls them.
_TOKENS, _TARGET = "net_input.src_tokens", "target"


class SentenceCalibration(Calibration):
    """Sentences drawn from a split.

    Args:
        path: of the model's checkpoint.
        loaded: the model, for whose loss classes or values are read; None to read none.

    Raises:
        UserError: as `read_labelled` or `read_texts`.
    """

    what: ClassVar[str] = "sentences"
    unfit: ClassVar[str] = "longer than the model takes"
    usual_max_tokens: ClassVar[int] = MAX_SYMBOLS

    def __init__(self, draw: Draw, path: PathLike, loaded: LoadedSentences | None) -> None:
        if loaded is None:
            data = read_texts(path, draw.data, draw.subset)
        else:
            data = read_labelled(loaded, draw.data, draw.subset)
        items = [data[index] for index in draw.of(len(data))]
        self._tokens = [item[_TOKENS] for item in items]
        self._labels = None if loaded is None else [_label(item[_TARGET]) for item in items]
        super().__init__(draw, [len(tokens) for tokens in self._tokens])

    def described_source(self) -> dict[str, Any]:
        return {"texts": digest(self._draw.data / "input0" / f"{self._draw.subset}.bin")}

    def part(self, indices: list[int], device: torch.device) -> Part:
        tokens = [self._tokens[i] for i in indices]
        source = pad_sequence(tokens, batch_first=True, padding_value=PAD).to(device)
        labels = () if self._labels is None else tuple(self._labels[i] for i in indices)
        return Part(source, source == PAD, labels)


def _label(target: Any) -> float | int:
    """The one class of a sentence, by number, or its value."""
    (label,) = target.tolist() if isinstance(target, torch.Tensor) else target
    found: float | int = label
    return found
