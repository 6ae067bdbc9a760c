"""Labels for a further iteration of pretraining: each frame's cluster of a model's hidden states.

Source: HuBERT (Hsu et al., IEEE/ACM TASLP 2021), which takes them from a layer in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from speechprune.backbones import find_backbone
from speechprune.checkpoint import PathLike
from speechprune.checkpoint.finetuned import listening
from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.inference import batches, padded_batch
from speechprune.errors import UserError
from speechprune.manifests.frame_units import read_all
from speechprune.manifests.processes import spread
from speechprune.manifests.progress import Progress, unwatched
from speechprune.manifests.rows import Row, read_rows
from speechprune.models.loading import load_encoder


def middle(checkpoint: PathLike) -> int:
    """The number of the hidden state that halves a model's layers, rounded down but at least 1.

    Raises UserError if the file holds no encoder.
    """
    encoder = load_encoder(checkpoint)
    return max(1, len(find_backbone(encoder).layers(encoder)) // 2)


@dataclass(frozen=True)
class Listening:
    """How recordings are listened to.

    Attributes:
        device: where the model runs.
        workers: processes that read recordings, None for one per core.
        progress: wraps the stream of utterances, each time that some are listened to.
    """

    device: torch.device = torch.device("cpu")
    workers: int | None = 1
    progress: Progress = unwatched


class HiddenStates:
    """The hidden states of a model, of the utterances in a manifest folder.

    Args:
        folder: of the manifests; labels are not read.
        checkpoint: pretrained or finetuned.
        layer: the number of the state; 0 is what enters the first layer, n leaves the nth.

    Raises:
        UserError: the checkpoint cannot be read or holds no encoder, or has fewer layers.
    """

    most = 1000

    def __init__(
        self, folder: Path, checkpoint: PathLike, layer: int, how: Listening = Listening()
    ) -> None:
        self._folder, self._how = folder, how
        self._normalize = listening(checkpoint)[0]
        self._encoder = _first_layers(load_encoder(checkpoint), layer).to(how.device)
        self._layer = layer

    def count(self, split: str) -> int:
        return len(self._rows(split)[1])

    def of(self, split: str, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        yield from self._how.progress(self._heard(split, numbers), len(numbers))

    def _heard(self, split: str, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        root, rows = self._rows(split)
        found = list(batches([rows[number][1] for number in numbers], MAX_TOKENS))
        paths = ([Path(root, rows[numbers[place]][0]) for place in batch] for batch in found)
        for batch, audio in zip(found, spread(read_all, paths, self._how.workers)):
            yield from zip((numbers[place] for place in batch), self._states(audio))

    def _states(self, audio: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The states of each of some recordings, (frames, C), as if it was alone."""
        batch = padded_batch(audio, normalize=self._normalize, device=self._how.device)
        family = find_backbone(self._encoder)
        with torch.inference_mode():
            states, _ = family.hidden_states(self._encoder, **batch)
        found = states[self._layer].float().cpu().numpy()
        for state, samples in zip(found, audio):
            yield state[: family.frame_count(self._encoder, len(samples))]

    def _rows(self, split: str) -> tuple[str, list[Row]]:
        return read_rows(self._folder / f"{split}.tsv")


def _first_layers(encoder: nn.Module, layer: int) -> nn.Module:
    """An encoder without the layers that come after a hidden state, but at least one."""
    family = find_backbone(encoder)
    depth = len(family.layers(encoder))
    if not 0 <= layer <= depth:
        raise UserError(f"the model has the hidden states 0 to {depth}, not {layer}")
    family.drop_layers(encoder, range(max(1, layer), depth))
    return encoder
