"""What a whole encoder costs: parameters, and multiply-adds for so many seconds of audio."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from speechprune.backbones.base import find_backbone
from speechprune.errors import UserError
from speechprune.slimming.cost import Cost

#: What all encoders listen at, in Hz.
SAMPLE_RATE = 16000
#: Length of the utterance that multiply-adds are counted for, unless another one is asked for.
UTTERANCE_SECONDS = 10.0


@dataclass(frozen=True)
class EncoderCost(Cost):
    """What one utterance takes in an encoder, from audio to the output of its last layer.

    Attributes:
        frames: T that each layer is given, with those that fairseq pads to an even number.
    """

    frames: int


@torch.no_grad()
def encoder_cost(model: nn.Module, seconds: float = UTTERANCE_SECONDS) -> EncoderCost:
    """Count the parameters of an encoder, and the multiply-adds of one forward pass.

    The pass is one over silence in which PyTorch computes shapes and no values. Its
    `FlopCounterMode` counts convolutions and products of matrices; a multiply-add is two of its
    operations. What weight norm makes of its parameters is not counted.

    Args:
        model: of a registered family, without a CTC head and without masks, whose scores would
            count as parameters.
        seconds: of audio at 16 kHz.

    Raises:
        UserError: of no registered family, or too short for a frame.
    """
    family = find_backbone(model)
    samples = round(seconds * SAMPLE_RATE)
    if family.frame_count(model, samples) == 0:
        raise UserError(f"{seconds:g} s of audio are too short for a frame; give more seconds")
    was_training = model.training
    model.eval()
    try:
        # The counter knows attention as products of matrices, and not each of its fused kernels.
        shapes_only = FakeTensorMode(allow_non_fake_inputs=True)
        counting = FlopCounterMode(display=False)
        with shapes_only, sdpa_kernel(SDPBackend.MATH), counting as counter:
            entry = family.enter(model, family.nothing(model, samples), None)
            state = entry.state
            for layer in family.layers(model):
                state = entry.through(layer, state)
    finally:
        model.train(was_training)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return EncoderCost(parameters, counter.get_total_flops() // 2, entry.state.shape[0])
