"""What fairseq and Hugging Face call the tensors of a speech encoder and its head: one table.

Both directions read it, and the shape that each tensor has to have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.exporting.network import Network, Quantizer
from speechprune.state_names import MASK_EMBEDDING


class Named(NamedTuple):
    """A tensor under both of its names.

    Attributes:
        fairseq: relative to the encoder, or to its head.
        hugging_face: likewise.
        shape: of both.
    """

    fairseq: str
    hugging_face: str
    shape: tuple[int, ...]


#: Where Hugging Face keeps the encoder in a model with a head, by what fairseq calls the family.
PREFIXES: Mapping[str, str] = {
    "wav2vec2": "wav2vec2.",
    "hubert": "hubert.",
    "data2vec_audio": "data2vec_audio.",
}
#: The projection that Hugging Face always has, and fairseq only between different widths.
PROJECTION = "feature_projection.projection"
#: What Hugging Face calls the embedding of masked spans.
SPAN_EMBEDDING = "masked_spec_embed"
#: Weight norm by torch 2, and before: magnitude and direction.
_WEIGHT_NORM = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}
_POSITIONS = "encoder.pos_conv_embed"
#: Parts of a layer, with the numbers of output and input channels as attributes of a network.
_LINEAR = (
    *((f"self_attn.{p}_proj", f"attention.{p}_proj", "channels", "channels") for p in "kvq"),
    ("self_attn.out_proj", "attention.out_proj", "channels", "channels"),
    ("fc1", "feed_forward.intermediate_dense", "ffn_channels", "channels"),
    ("fc2", "feed_forward.output_dense", "channels", "ffn_channels"),
)
_NORMS = (("self_attn_layer_norm", "layer_norm"), ("final_layer_norm", "final_layer_norm"))


def encoder_names(network: Network) -> Iterator[Named]:
    """All tensors that fairseq's encoder has, one by one: a network may claim any number."""
    channels = network.channels
    yield Named(MASK_EMBEDDING, SPAN_EMBEDDING, (channels,))
    yield from _front_end(network)
    yield from _norm("layer_norm", "feature_projection.layer_norm", network.front_channels)
    if network.has_projection:
        yield from _linear("post_extract_proj", PROJECTION, channels, network.front_channels)
    yield from _positions(network)
    yield from _norm("encoder.layer_norm", "encoder.layer_norm", channels)
    for i in range(network.layers):
        layer = f"encoder.layers.{i}."
        for fairseq, hugging_face, outputs, inputs in _LINEAR:
            shape = getattr(network, outputs), getattr(network, inputs)
            yield from _linear(layer + fairseq, layer + hugging_face, *shape)
        for fairseq, hugging_face in _NORMS:
            yield from _norm(layer + fairseq, layer + hugging_face, channels)


def ctc_head_names(network: Network, outputs: int) -> list[Named]:
    """The output layer of a CTC model."""
    return list(_linear("proj", "lm_head", outputs, network.channels))


def label_head_names(network: Network, width: int, classes: int) -> list[Named]:
    """The head of a model for labels, with ``width`` channels within."""
    return [
        Named("proj.layer_weights", "layer_weights", (network.layers + 1,)),
        *_linear("proj.projector", "projector", width, network.channels),
        *_linear("proj.output", "classifier", classes, width),
    ]


def quantizer_names(network: Network, quantizer: Quantizer) -> list[Named]:
    """What wav2vec 2.0 has for its pretraining."""
    outputs = quantizer.vectors * quantizer.groups
    codebook = (1, outputs, quantizer.width // quantizer.groups)
    return [
        Named("quantizer.vars", "quantizer.codevectors", codebook),
        *_linear("quantizer.weight_proj", "quantizer.weight_proj", outputs, network.front_channels),
        *_linear("project_q", "project_q", quantizer.loss_width, quantizer.width),
        *_linear("final_proj", "project_hid", quantizer.loss_width, network.channels),
    ]


def todays_name(key: str) -> str:
    """A tensor's name in a file of Hugging Face's of whatever year as of today."""
    for before, now in _WEIGHT_NORM.items():
        if key.endswith(before):
            return key[: -len(before)] + now
    return key


def renamed_to_hugging_face(
    network: Network, tensors: Mapping[str, Tensor], path: object
) -> dict[str, Tensor]:
    """The tensors of fairseq's encoder under the names of Hugging Face's.

    Raises UserError for the first one that is missing, is of another shape, or has no place there.
    """
    names = list(encoder_names(network))
    renamed = {each.hugging_face: fitting(tensors, each.fairseq, each, path) for each in names}
    known = {each.fairseq for each in names}
    for key in tensors:
        if key not in known:
            raise UserError(f"{path} has a tensor {key}, for which Hugging Face has no place")
    if not network.has_projection:
        kind = renamed["feature_projection.layer_norm.weight"].dtype
        renamed[f"{PROJECTION}.weight"] = torch.eye(network.channels, dtype=kind)
        renamed[f"{PROJECTION}.bias"] = torch.zeros(network.channels, dtype=kind)
    return renamed


def fitting(tensors: Mapping[str, Tensor], key: str, named: Named, path: object) -> Tensor:
    """The tensor called ``key``; raises UserError if it is missing, or of another shape."""
    found = tensors.get(key)
    if found is None:
        raise UserError(f"{path} lacks the tensor {key}, which its settings ask for")
    if tuple(found.shape) != named.shape:
        raise UserError(
            f"{path}: the tensor {key} has the shape {list(found.shape)}, but its settings ask for "
            f"{list(named.shape)}"
        )
    return found


def _front_end(network: Network) -> Iterator[Named]:
    before = 1
    for i, (channels, kernel, _) in enumerate(network.convolutions):
        ours = theirs = f"feature_extractor.conv_layers.{i}"
        yield Named(f"{ours}.0.weight", f"{theirs}.conv.weight", (channels, before, kernel))
        if network.conv_bias:
            yield Named(f"{ours}.0.bias", f"{theirs}.conv.bias", (channels,))
        if not network.group_norm:
            # fairseq turns channels and frames around first: its norm is the second of three.
            yield from _norm(f"{ours}.2.1", f"{theirs}.layer_norm", channels)
        elif i == 0:
            yield from _norm(f"{ours}.2", f"{theirs}.layer_norm", channels)
        before = channels


def _positions(network: Network) -> Iterator[Named]:
    ours, channels = "encoder.pos_conv", network.channels
    shape = (channels, channels // network.position_groups, network.position_kernel)
    if network.position_layers > 1:
        for i in range(network.position_layers):
            theirs = f"{_POSITIONS}.layers.{i}.conv"
            yield Named(f"{ours}.{i}.0.weight", f"{theirs}.weight", shape)
            yield Named(f"{ours}.{i}.0.bias", f"{theirs}.bias", (channels,))
        return
    if network.position_batch_norm:
        norm = f"{_POSITIONS}.batch_norm"
        yield from _norm(f"{ours}.0", norm, channels)
        for statistic in ("running_mean", "running_var"):
            yield Named(f"{ours}.0.{statistic}", f"{norm}.{statistic}", (channels,))
        counter = "num_batches_tracked"
        yield Named(f"{ours}.0.{counter}", f"{norm}.{counter}", ())
        yield Named(f"{ours}.1.weight", f"{_POSITIONS}.conv.weight", shape)
        yield Named(f"{ours}.1.bias", f"{_POSITIONS}.conv.bias", (channels,))
        return
    magnitude, direction = _WEIGHT_NORM.values()
    conv = f"{_POSITIONS}.conv"
    yield Named(f"{ours}.0.bias", f"{conv}.bias", (channels,))
    yield Named(f"{ours}.0.weight_g", conv + magnitude, (1, 1, network.position_kernel))
    yield Named(f"{ours}.0.weight_v", conv + direction, shape)


def _linear(ours: str, theirs: str, outputs: int, inputs: int) -> Iterator[Named]:
    yield Named(f"{ours}.weight", f"{theirs}.weight", (outputs, inputs))
    yield Named(f"{ours}.bias", f"{theirs}.bias", (outputs,))


def _norm(ours: str, theirs: str, channels: int) -> Iterator[Named]:
    yield Named(f"{ours}.weight", f"{theirs}.weight", (channels,))
    yield Named(f"{ours}.bias", f"{theirs}.bias", (channels,))
