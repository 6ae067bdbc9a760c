"""What a backbone is: the one place where the parameter names of a model family are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechprune.backbones.lengths import SECONDS, LengthUnit
from speechprune.errors import UserError
from speechprune.masking.sites import Site
from speechprune.registry import Registry
from speechprune.slimming.plan import KeptUnits, SlimPlan
from speechprune.slimming.units import LayerUnits
from speechprune.state_names import without_layers

#: Every role a site can have. "layers" are those inside the transformer layers.
LAYER_ROLES = ("attn.q", "attn.k", "attn.v", "attn.out", "ffn.in", "ffn.out")
OTHER_ROLES = ("front.conv", "front.proj", "pos.conv")


@dataclass(frozen=True)
class Entry:
    """What enters layer 0, and what each layer receives beside it.

    Attributes:
        state: in the layers' own shape.
        options: keyword arguments of a layer's `forward`.
        padding: of the frames, bool (B, T); None without padding.
        frames: T.
        heard: what of the state is audio, and no padding of any kind; bool,
            in the shape of the state without its channels.
    """

    state: Tensor
    options: Mapping[str, Any]
    padding: Tensor | None
    frames: int
    heard: Tensor

    def through(self, layer: nn.Module, state: Tensor) -> Tensor:
        """The state after ``layer``, which may give more beside it."""
        after = layer(state, **self.options)
        first: Tensor = after if isinstance(after, Tensor) else after[0]
        return first


class Backbone(ABC):
    """A model family: its names, layers, hidden states and features. It holds no model itself."""

    #: What fairseq's registry calls its models: ``_name`` in the settings of a checkpoint.
    fairseq_name: ClassVar[str]
    #: What its source is: audio, or the symbols of a text.
    hears: ClassVar[str] = "audio"
    #: In what the lengths of its sources are told.
    length_unit: ClassVar[LengthUnit] = SECONDS
    #: Whether fairseq's own CTC model for wav2vec 2.0 can run its models.
    fits_fairseqs_ctc: ClassVar[bool] = True
    #: How the keys begin of what only pretraining needs, where finetuned checkpoints hold it too.
    pretraining_only: ClassVar[tuple[str, ...]] = ()

    def make_known(self) -> None:  # noqa: B027  (most families have nothing to do)
        """Register its models with fairseq, where importing fairseq does not."""

    def is_called(self, name: str) -> bool:
        """Whether a model of this family may have a name in fairseq's registry."""
        return name == self.fairseq_name

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Whether ``model`` belongs to this family."""

    @abstractmethod
    def build(self, task: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
        """A new encoder with random weights, without its pretraining heads, on the CPU.

        Args:
            task: settings of its pretraining's task.
            settings: settings of the model, as a pretrained checkpoint holds them; keys that newer
                versions of fairseq know besides get their defaults.
        """

    def settings_as(self, family: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The settings of a model of another family that is the same network, under equal names.

        Args:
            family: its name in fairseq's registry.
            settings: of a model of this family, as a pretrained checkpoint holds them.

        Returns:
            None if that family has no such model.
        """
        return None

    @abstractmethod
    def fresh(self, model: nn.Module, seed: int) -> nn.Module:
        """An encoder of ``model``'s own settings with random weights, as pretraining starts from.

        It is in evaluation mode and without gradient; ``seed`` alone decides on its weights.
        """

    @abstractmethod
    def features(
        self,
        model: nn.Module,
        source: Tensor,
        padding_mask: Tensor | None,
        *,
        mask: bool = False,
        together: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What the encoder makes of audio.

        In evaluation mode, each utterance is heard `apart`.

        Args:
            source: audio, (B, samples).
            padding_mask: bool, (B, samples), True where padded; None without padding.
            mask: mask spans of frames and of channels, as in training.
            together: fairseq's own arithmetic over the batch stays in evaluation mode too, so that
                the states are those of a model in training mode but for its noise.

        Returns:
            Its output, (B, T, C), and the frames' padding mask, bool (B, T); None without padding.
        """

    @abstractmethod
    def apart(
        self, model: nn.Module, padding_mask: Tensor | None
    ) -> AbstractContextManager[Tensor | None]:
        """Within it, a model in evaluation mode makes of each utterance what it would make of it
        alone, whatever shares its batch. In training mode fairseq's own arithmetic stays.

        Args:
            padding_mask: bool, (B, samples), True where padded; None without padding.

        Returns:
            A context manager that gives the padding mask to hand to the model instead, of the same
            shape.
        """

    def padding_of_frames(
        self, model: nn.Module, padding_mask: Tensor | None, told: Tensor | None
    ) -> Tensor | None:
        """The mask of frames that fairseq gives, and all of an utterance too short for a frame,
        whose frames fairseq counts from the end of the batch. In training mode it stays.

        Args:
            padding_mask: bool, (B, samples), True where padded; None without padding.
            told: bool, (B, T); None without padding.
        """
        if model.training or padding_mask is None or told is None:
            return told
        lengths = (~padding_mask).sum(1).tolist()
        too_short = [self.frame_count(model, length) == 0 for length in lengths]
        return told | torch.tensor(too_short, device=told.device)[:, None]

    @abstractmethod
    def frame_count(self, model: nn.Module, samples: int) -> int:
        """T, the frames of an utterance of so many samples by itself; 0 if it is too short."""

    def longest(self, model: nn.Module) -> int | None:
        """The most samples that a model takes at once; None if it takes any number."""
        return None

    def nothing(self, model: nn.Module, samples: int) -> Tensor:
        """A source of so many samples that says nothing, (1, samples): silence."""
        some = next(model.parameters())
        return torch.zeros(1, samples, dtype=some.dtype, device=some.device)

    @abstractmethod
    def sites(self, model: nn.Module, roles: Collection[str]) -> list[Site]:
        """The maskable tensors with the given roles, in model order.

        A weight that weight norm makes is a site itself, though not a parameter; see
        `speechprune.masking.sites.before_weight_norm`.
        """

    def own_parameters(self, model: nn.Module) -> Iterator[nn.Parameter]:
        """The parameters of the encoder itself, without heads of pretraining or of a task."""
        return model.parameters()

    @abstractmethod
    def parameters(self, model: nn.Module, group: str) -> list[nn.Parameter]:
        """Parameters that are freed together: ``layer_norm``, ``pos``, ``front.proj`` or
        ``mask_emb``."""

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
    def units(self, model: nn.Module) -> list[LayerUnits]:
        """The heads and feed-forward channels of each layer.

        Raises:
            UserError: the layers are of a kind that has none, or that cannot be slimmed.
        """

    @abstractmethod
    def slim(self, model: nn.Module, kept: Sequence[KeptUnits]) -> None:
        """Cut all other heads and channels out of the layers, in place.

        Attention is left to a module that can have any number of heads, also where all stay.

        Args:
            kept: for each layer, by the numbers of what ``model`` has.

        Raises:
            UserError: as `units`, or a layer lacks what it is to keep.
        """

    @abstractmethod
    def slim_plan(self, model: nn.Module) -> SlimPlan | None:
        """What a model has kept in all, by the numbers of its first heads and channels; None if
        nothing was ever cut out of it."""

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
        return without_layers(key, dropped)


BACKBONES: Registry[Backbone] = Registry("backbone", "speechprune.backbones")


def backbone_called(fairseq_name: str) -> Backbone:
    """The family whose models have the name ``fairseq_name`` in fairseq's registry.

    Raises:
        UserError: no registered family has it.
    """
    families = [BACKBONES.build(name) for name in BACKBONES.names()]
    for family in families:
        if family.is_called(fairseq_name):
            return family
    known = ", ".join(sorted(family.fairseq_name for family in families))
    raise UserError(
        f"models called {fairseq_name!r} are of a family that speechprune does not know; it knows "
        f"{known}"
    )


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
