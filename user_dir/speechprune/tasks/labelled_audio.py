"""Recordings with a class in each slot, as fairseq's loop reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import FileAudioDataset
from torch import Tensor
from torch.nn import functional as F

from speechprune.tasks.balance import balanced_order


class LabelledAudio(FileAudioDataset):
    """A split of a manifest folder; batches are padded, and hold ``labels``, int64 (B, slots).

    Args:
        manifest: a ``.tsv`` file.
        labels: int64 (N, slots), in the order of the manifest.
        sample_rate: of the recordings, in Hz.
        normalize: give each recording, or crop, mean 0 and variance 1.
        crop: most samples of a recording that are heard; which ones, ``seed`` and the epoch choose
            for each recording. None for whole recordings.
        balanced: the slot whose classes are drawn equally often, as in `balanced_order`; None to
            draw each recording once an epoch.
        seed: of crops and draws.
    """

    #: Samples of each recording, as far as they are heard, int64 (N,).
    sizes: np.ndarray

    def __init__(
        self,
        manifest: Path,
        labels: Tensor,
        *,
        sample_rate: int,
        normalize: bool,
        crop: int | None = None,
        balanced: int | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__(str(manifest), sample_rate, pad=True, shuffle=True)
        if len(self.sizes) != len(labels):
            raise ValueError(f"{len(labels)} labels for {len(self.sizes)} recordings")
        self.labels = labels
        self.normalizes = normalize
        self.crop = crop
        self.balanced = balanced
        self.seed = seed
        self.epoch = 1
        if crop is not None:
            self.sizes = np.minimum(self.sizes, crop)

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Each epoch has draws and crops of its own."""
        return False

    def set_epoch(self, epoch: int) -> None:
        """Called before the batches of an epoch are made."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample: dict[str, Any] = super().__getitem__(int(index))
        source = self._cropped(sample["source"], int(index))
        sample["source"] = F.layer_norm(source, source.shape) if self.normalizes else source
        return sample

    def _cropped(self, source: Tensor, index: int) -> Tensor:
        if self.crop is None or len(source) <= self.crop:
            return source
        random = np.random.default_rng((self.seed, self.epoch, index))
        start = int(random.integers(len(source) - self.crop + 1))
        return source[start : start + self.crop]

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().collater(samples)
        if batch:
            batch["labels"] = self.labels[batch["id"]]
        return batch

    def ordered_indices(self) -> np.ndarray:
        """Recordings in the order in which batches are cut: the longest first, and at random among
        equally long ones."""
        if self.balanced is None:
            order: np.ndarray = super().ordered_indices()
            return order
        drawn = balanced_order(self.labels[:, self.balanced].numpy(), (self.seed, self.epoch))
        return drawn[np.argsort(-self.sizes[drawn], kind="stable")]


def label_numbers(labels: list[tuple[int, ...]]) -> Tensor:
    """The numbers of classes as int64 (N, slots)."""
    return torch.tensor(labels, dtype=torch.int64)
