"""The frozen model that another one learns hidden states from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechprune.backbones import Backbone, find_backbone
from speechprune.checkpoint import read
from speechprune.checkpoint.layers import lost_layers
from speechprune.checkpoint.settings import setting
from speechprune.checkpoint.text import refuse_text
from speechprune.distillation.matching import Stack, default_states
from speechprune.distillation.states import collected
from speechprune.errors import UserError
from speechprune.models.loading import load_encoder

#: A minute of audio at 16 kHz, whose number of frames tells frame rates apart.
_SAMPLES = 960_000


class Teacher:
    """The encoder of a checkpoint, in evaluation mode and without gradient.

    It is not a module, so that whatever holds it neither trains nor saves it.

    Args:
        path: a pretrained or finetuned checkpoint.
        normalize: whether the audio that it will hear is normalised.
        states: the numbers of its hidden states to learn; none for the default.

    Raises:
        UserError: the file cannot be read or holds no known encoder, it is of audio normalised
            otherwise, or it has no such states.
    """

    def __init__(self, path: str, normalize: bool, states: Sequence[int] = ()) -> None:
        self.path = path
        refuse_text(path, "distillation is of speech alone, so criterion.teacher cannot be one")
        _check_normalize(path, normalize)
        with torch.random.fork_rng(devices=[]):
            self.encoder = load_encoder(path)
        self.family = find_backbone(self.encoder)
        layers = len(self.family.layers(self.encoder))
        self.stack = Stack(layers, lost_layers(read(path, mmap=True)))
        self.states = tuple(states) or default_states(layers)
        check_states(self.states, layers, "states", path)
        self._leave_out_last_layers()

    @property
    def channels(self) -> int:
        """C, of its hidden states."""
        return channels_of(self.family, self.encoder)

    def check_fits(self, family: Backbone, encoder: nn.Module) -> None:
        """Refuse a student whose hidden states cannot be compared with its own.

        Raises:
            UserError: they have other channels or other frames.
        """
        own, others = self.channels, channels_of(family, encoder)
        if own != others:
            raise UserError(
                f"criterion.teacher={self.path} has {own} channels, but the model has {others}; "
                "name a teacher of the same width"
            )
        own, others = (
            backbone.frame_count(model, _SAMPLES)
            for backbone, model in ((self.family, self.encoder), (family, encoder))
        )
        if own != others:
            raise UserError(
                f"criterion.teacher={self.path} makes {own} frames of {_SAMPLES} samples, but the "
                f"model makes {others}; name a teacher of the same frame rate"
            )

    @torch.no_grad()
    def hear(self, source: Tensor, padding_mask: Tensor | None, *, together: bool) -> list[Tensor]:
        """Its hidden states of audio, (T, B, C) each, on the device and in the precision of it.

        Args:
            source: audio, (B, samples).
            padding_mask: bool, (B, samples), True where padded; None without padding.
            together: as a model in training mode hears a batch; else each utterance apart.
        """
        some = next(self.encoder.parameters())
        if (some.device, some.dtype) != (source.device, source.dtype):
            self.encoder.to(source.device, source.dtype)
        with collected(self.family.layers(self.encoder), self.states) as states:
            self.family.features(self.encoder, source, padding_mask, together=together)
        return [states[number] for number in self.states]

    def _leave_out_last_layers(self) -> None:
        """Nobody learns from layers after the last of the states."""
        needed = max(1, *self.states)
        self.family.drop_layers(self.encoder, range(needed, self.stack.layers))
        self.encoder.eval()


def channels_of(family: Backbone, encoder: nn.Module) -> int:
    """The channels of an encoder's hidden states."""
    (embedding,) = family.parameters(encoder, "mask_emb")
    return embedding.numel()


def check_states(states: Sequence[int], layers: int, key: str, model: str) -> None:
    """Refuse hidden states that a model lacks.

    Args:
        key: that names them, of the criterion.
        model: of ``layers`` layers, in words.

    Raises:
        UserError: one is out of range.
    """
    for state in states:
        if not 0 <= state <= layers:
            raise UserError(
                f"criterion.{key}={list(states)}: there is no hidden state {state} in {model}, "
                f"which has the states 0 to {layers}"
            )


def _check_normalize(path: str, normalize: bool) -> None:
    state = read(path, mmap=True)
    known = setting(state, "task", "normalize", None)
    own = bool(setting(state, "model", "normalize", False) if known is None else known)
    if own != normalize:
        raise UserError(
            f"criterion.teacher={path} hears audio with normalize={str(own).lower()}, but the "
            f"model with task.normalize={str(normalize).lower()}; name a teacher like the model"
        )
