"""What a backbone is: the one place where the parameter names of a model family are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from speechprune.errors import UserError
from speechprune.masking.sites import Site
from speechprune.registry import Registry

#: Every role a site can have. "layers" are those inside the transformer layers.
LAYER_ROLES = ("attn.q", "attn.k", "attn.v", "attn.out", "ffn.in", "ffn.out")
OTHER_ROLES = ("front.conv", "front.proj", "pos.conv")


@dataclass(frozen=True)
class Entry:
    """What enters layer 0, and what each layer is told beside it.

    Attributes:
        state: in the layers' own shape.
        options: keyword arguments of a layer's `forward`.
        padding: of the frames, bool (B, T); None without padding.
        frames: T.
    """

    state: Tensor
    options: Mapping[str, Any]
    padding: Tensor | None
    frames: int

    def through(self, layer: nn.Module, state: Tensor) -> Tensor:
        """The state after ``layer``."""
        after: Tensor = layer(state, **self.options)[0]
        return after


class Backbone(ABC):
    """A model family: loading, roles, layers and hidden states. It holds no model itself."""

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Whether ``model`` belongs to this family."""

    @abstractmethod
    def load(self, path: str | Path, overrides: Mapping[str, Any] | None = None) -> nn.Module:
        """The pretrained encoder in the checkpoint at ``path``, in evaluation mode, on the CPU.

        Args:
            overrides: values for keys of the checkpoint's configuration.

        Raises:
            UserError: the file is not a pretrained model of this family.
        """

    @abstractmethod
    def sites(self, model: nn.Module, roles: Collection[str]) -> list[Site]:
        """The maskable tensors with the given roles, in model order."""

    @abstractmethod
    def parameters(self, model: nn.Module, group: str) -> list[nn.Parameter]:
        """Parameters that are freed together: ``bias`` (of the layers' projections),
        ``layer_norm``, ``pos``, ``front.proj`` or ``mask_emb``."""

    @abstractmethod
    def layers(self, model: nn.Module) -> nn.ModuleList:
        """The L transformer layers."""

    @abstractmethod
    def hidden_states(
        self, model: nn.Module, source: Tensor, padding_mask: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """What enters and leaves each layer.

        Args:
            source: audio, (B, samples).
            padding_mask: bool, (B, samples), True where padded; None without padding.

        Returns:
            L + 1 tensors of (B, T, C): state 0 is the input of layer 0, state L the output of the
            last, before any final layer norm; and the frames' padding mask, bool (B, T).
        """

    @abstractmethod
    def enter(self, model: nn.Module, source: Tensor, padding_mask: Tensor | None) -> Entry:
        """Do what comes before layer 0; arguments are those of `hidden_states`."""

    @abstractmethod
    def leave(self, model: nn.Module, entry: Entry, state: Tensor) -> Tensor:
        """What the encoder makes of the state after its last layer.

        Args:
            entry: what the state began as.
            state: in the layers' own shape.

        Returns:
            The encoder's output, (B, T, C).
        """

    @abstractmethod
    def drop_layers(self, model: nn.Module, dropped: Collection[int]) -> None:
        """Remove the given 0-based layers.

        Raises:
            UserError: a layer does not exist, or none would be left.
        """

    @abstractmethod
    def key_without_layers(self, key: str, dropped: Collection[int]) -> str | None:
        """What a key of a checkpoint is called once layers are gone.

        Args:
            key: of a model of this family, under any prefix, or of its EMA teacher; it may name
                what is kept beside a layer's tensors, such as masks and scores.
            dropped: 0-based layers.

        Returns:
            The key with its layer renumbered, None if it belongs to a dropped layer, and the key
            itself if it belongs to none.
        """


BACKBONES: Registry = Registry("backbone", "speechprune.backbones")


def find_backbone(model: nn.Module) -> Backbone:
    """The family of ``model``; raises UserError if no registered backbone knows it.

    Of several, a relative that is derived from the others knows it best.
    """
    backbones = [BACKBONES.build(name) for name in BACKBONES.names()]
    matching = [backbone for backbone in backbones if backbone.matches(model)]
    if matching:
        return max(matching, key=lambda backbone: len(type(backbone).__mro__))
    known = ", ".join(BACKBONES.names())
    raise UserError(f"no backbone knows {type(model).__name__}; known: {known}")
