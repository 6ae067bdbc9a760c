"""The network of a speech encoder, as far as fairseq and Hugging Face can both describe it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """What the shapes and the order of an encoder's operations follow from.

    Attributes:
        family: what fairseq's registry calls it.
        layers: of the transformer.
        channels: of its states, C.
        heads: of each layer.
        ffn_channels: inner channels of the feed-forward block of each layer.
        convolutions: (channels, kernel, stride) of each of the front end.
        conv_bias: whether these have one.
        group_norm: whether the first of them has a group norm, and the others nothing; else each
            has a layer norm.
        layer_norm_first: whether a layer begins with its norm.
        activation: what fairseq calls that of the feed-forward blocks.
        position_kernel, position_groups: of each convolution for positions.
        position_layers: how many of these there are.
        position_batch_norm: whether there is a batch norm before it, and no weight norm.
    """

    family: str
    layers: int
    channels: int
    heads: int
    ffn_channels: int
    convolutions: tuple[tuple[int, int, int], ...]
    conv_bias: bool
    group_norm: bool
    layer_norm_first: bool
    activation: str
    position_kernel: int
    position_groups: int
    position_layers: int = 1
    position_batch_norm: bool = False

    @property
    def front_channels(self) -> int:
        """Channels that the front end gives."""
        return self.convolutions[-1][0]

    @property
    def has_projection(self) -> bool:
        """Whether fairseq projects what the front end gives, which Hugging Face always does."""
        return self.front_channels != self.channels

    @property
    def pads_alike(self) -> bool:
        """Whether both libraries make of an utterance the same beside longer ones as alone.

        A group norm of Hugging Face's takes the statistics of the padding too, as does each of
        several convolutions for positions after the first, and a batch norm shifts the padding.
        """
        return not self.group_norm and self.position_layers == 1 and not self.position_batch_norm


@dataclass(frozen=True)
class Quantizer:
    """That of wav2vec 2.0, which only pretraining needs.

    Attributes:
        groups: of vectors, one of each of which stands for a frame.
        vectors: in each group.
        width: of what stands for a frame, all groups together.
        loss_width: of what is compared in the loss.
    """

    groups: int
    vectors: int
    width: int
    loss_width: int
