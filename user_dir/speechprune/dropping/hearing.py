"""What an encoder hears of a split, piece by piece: the recordings of a manifest, or texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import torch
from torch import Tensor

from speechprune.checkpoint import PathLike, read
from speechprune.checkpoint.finetuned import listening
from speechprune.decoding.inference import read_audio
from speechprune.decoding.sentences import read_texts
from speechprune.manifests.check import check_split, read_recordings
from speechprune.state_names import is_text


@dataclass(frozen=True)
class Recordings:
    """Recordings.

    Attributes:
        normalize: whether they are to have mean 0 and variance 1.
        rate: sample rate in Hz.
    """

    paths: Sequence[Path]
    normalize: bool
    rate: int

    def __len__(self) -> int:
        return len(self.paths)

    def source(self, index: int) -> Tensor:
        """A recording, float32 (samples,); raises UserError if it is unreadable."""
        samples = torch.from_numpy(read_audio(self.paths[index], self.rate))
        if self.normalize:
            samples = torch.nn.functional.layer_norm(samples, samples.shape)
        return samples


@dataclass(frozen=True)
class Texts:
    """Texts, as `speechprune.decoding.sentences.read_texts` gives them."""

    data: Any

    def __len__(self) -> int:
        return len(self.data)

    def source(self, index: int) -> Tensor:
        """The numbers of a text's symbols, int64 (T,)."""
        symbols: Tensor = self.data[index]["net_input.src_tokens"]
        return symbols


Heard = Union[Recordings, Texts]


def heard_by(checkpoint: PathLike, data: Path, subset: str) -> Heard:
    """What the encoder in a checkpoint, pretrained or finetuned, hears of a split.

    Args:
        data: folder of manifests, or one that `prepare glue` makes for an encoder of text; labels
            are not needed.

    Raises:
        UserError: a file is missing or damaged, or the folder is for another encoder.
    """
    if is_text(read(checkpoint, mmap=True)["model"]):
        return Texts(read_texts(checkpoint, data, subset))
    normalize, rate = listening(checkpoint)
    check_split(data, subset, labels=None, sample_rate=rate)
    root, rows = read_recordings(data / f"{subset}.tsv")
    return Recordings([root / row[0] for row in rows], normalize, rate)
