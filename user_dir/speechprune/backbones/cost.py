"""What a whole encoder costs: parameters, and multiply-adds for a source of some length."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from speechprune.backbones.base import Backbone, find_backbone
from speechprune.backbones.lengths import Length
from speechprune.errors import UserError
from speechprune.slimming.cost import Cost


@dataclass(frozen=True)
class EncoderCost(Cost):
    """What one utterance or text takes in an encoder, from the source to the output of its last
    layer.

    Attributes:
        frames: T that each layer is given, with those that fairseq pads to an even number.
        length: of the utterance or text.
    """

    frames: int
    length: Length


def encoder_parameters(model: nn.Module) -> int:
    """How many parameters an encoder has, without heads of pretraining or of a task."""
    return sum(parameter.numel() for parameter in find_backbone(model).own_parameters(model))


@torch.no_grad()
def encoder_cost(model: nn.Module, length: float | None = None) -> EncoderCost:
    """Count the parameters of an encoder, and the multiply-adds of one forward pass.

    The pass is one over a source that says nothing, in which PyTorch computes shapes and no values.
    Its `FlopCounterMode` counts convolutions and products of matrices; a multiply-add is two of its
    operations. What weight norm makes of its parameters is not counted.

    Args:
        model: of a registered family, without a CTC head and without masks, whose scores would
            count as parameters.
        length: in the unit of its family: seconds of audio at 16 kHz, or symbols of text. None for
            the usual one, or the longest that the model takes.

    Raises:
        UserError: of no registered family, or too short for a frame, or too long for the model.
    """
    family = find_backbone(model)
    heard = _length(family, model, length)
    was_training = model.training
    model.eval()
    try:
        # The counter knows attention as products of matrices, and not each of its fused kernels.
        shapes_only = FakeTensorMode(allow_non_fake_inputs=True)
        counting = FlopCounterMode(display=False)
        with ExitStack() as modes:
            modes.enter_context(sdpa_kernel(SDPBackend.MATH))
            counter = modes.enter_context(counting)
            if family.hears == "audio":
                modes.enter_context(shapes_only)
            entry = family.enter(model, family.nothing(model, heard.samples), None)
            if family.hears == "text":  # fairseq looks at its symbols for those that pad
                modes.enter_context(shapes_only)
            state = entry.state
            for layer in family.layers(model):
                state = entry.through(layer, state)
    finally:
        model.train(was_training)
    operations = counter.get_total_flops()
    return EncoderCost(encoder_parameters(model), operations // 2, entry.state.shape[0], heard)


def _length(family: Backbone, model: nn.Module, count: float | None) -> Length:
    """The length to count for; raises UserError if the model cannot take it."""
    unit, longest = family.length_unit, family.longest(model)
    if count is None:
        count = unit.usual if longest is None else min(unit.usual, longest // unit.samples)
    length = Length(count, unit)
    if family.frame_count(model, length.samples) == 0:
        raise UserError(f"{length} are too short for a frame; give more {unit.name}")
    if longest is not None and length.samples > longest:
        raise UserError(
            f"{length} are more than the model takes, which is {longest}; give fewer {unit.name}"
        )
    return length
