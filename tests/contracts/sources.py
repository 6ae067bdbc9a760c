"""What encoders are given: nano audio and nano texts, as the contract of backbones needs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from sentences import WORDS, dictionary
from torch import Tensor, nn

from speechprune.backbones import LAYER_ROLES
from speechprune.backbones.base import OTHER_ROLES


class Sources(ABC):
    """What a kind of encoder hears or reads. Lengths are in samples of its source.

    Attributes:
        lengths: of an even and of an odd number of frames.
        shorter: two that are shorter, of an odd and of an even number of frames.
        one_frame: the least that makes a frame.
        frame: what makes one more.
        pad: what a source is filled up with.
        roles: of the sites that its encoders have.
        groups: of parameters that they have.
    """

    lengths: ClassVar[tuple[int, int]]
    shorter: ClassVar[tuple[int, int]]
    one_frame: ClassVar[int]
    frame: ClassVar[int]
    pad: ClassVar[int]
    roles: ClassVar[tuple[str, ...]]
    groups: ClassVar[tuple[str, ...]]

    @abstractmethod
    def draw(self, batch: int = 2, samples: int | None = None) -> Tensor:
        """A source, (B, samples), the same for equal sizes."""

    @abstractmethod
    def extract(
        self, model: Any, source: Tensor, padding_mask: Tensor | None, mask: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """What fairseq's own code makes of a source, and its padding of frames."""

    def padded(self, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Sources of these lengths, filled up to the first of them; and their padding mask."""
        source = self.draw(len(lengths), lengths[0])
        padding_mask = torch.arange(source.shape[1]) >= torch.tensor(lengths)[:, None]
        return source.masked_fill(padding_mask, self.pad), padding_mask

    @torch.no_grad()
    def output(self, model: nn.Module, source: Tensor) -> Tensor:
        """What finetuning reads of the model, (B, T, C)."""
        # On some processors PyTorch rounds otherwise by weights that require gradient.
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        result, _ = self.extract(model, source, None)
        for parameter in trained:
            parameter.requires_grad_(True)
        return result


class Audio(Sources):
    """Noise for the nano extractor, which makes a frame of 400 samples and of each 320 more."""

    lengths = (8000, 8320)
    shorter = (6000, 5680)
    one_frame = 400
    frame = 320
    pad = 0
    roles = (*LAYER_ROLES, *OTHER_ROLES)
    groups = ("layer_norm", "pos", "front.proj", "mask_emb")

    def draw(self, batch: int = 2, samples: int | None = None) -> Tensor:
        samples = samples or self.lengths[0]
        return torch.randn(batch, samples, generator=torch.Generator().manual_seed(samples))

    def extract(
        self, model: Any, source: Tensor, padding_mask: Tensor | None, mask: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        found = model.extract_features(source, padding_mask, mask=mask)
        return (found["x"], found["padding_mask"]) if isinstance(found, dict) else found[:2]


class Text(Sources):
    """Words of the nano dictionary, each a frame."""

    lengths = (24, 25)
    shorter = (17, 16)
    one_frame = 1
    frame = 1
    pad = 1
    roles = LAYER_ROLES
    groups = ("layer_norm", "pos")

    def draw(self, batch: int = 2, samples: int | None = None) -> Tensor:
        samples, symbols = samples or self.lengths[0], dictionary()
        generator = torch.Generator().manual_seed(samples)
        least = len(symbols) - len(WORDS)
        return torch.randint(least, len(symbols), (batch, samples), generator=generator)

    def extract(
        self, model: Any, source: Tensor, padding_mask: Tensor | None, mask: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if padding_mask is not None:
            source = source.masked_fill(padding_mask, self.pad)
        features, _ = model(source, features_only=True)
        return features, None if padding_mask is None else source == self.pad
