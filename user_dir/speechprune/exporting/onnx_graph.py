"""The graph of a CTC model, in which each recording of a padded batch is heard as if alone.

Two halves are traced and put together: the convolutions that make frames of samples, and all that
follows. Traced at once, each shape after the convolutions would be a formula of seven divisions of
the number of samples, which takes PyTorch minutes to reason about.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import remove_weight_norm

from speechprune.backbones import find_backbone
from speechprune.exporting.onnx_layouts import Layout
from speechprune.exporting.onnx_packages import onnx_package
from speechprune.models.sites import encoder_of_model, output_layer_of

#: Of the normalisation of recordings, as fairseq's `F.layer_norm` has it.
_EPSILON = 1e-5
#: What the halves hand over; "frames" are the counts of the recordings.
_FEATURES, _FRAMES = "features", "frames_of_features"
_TELLING = ("torch.onnx", "onnxscript", "onnx_ir")


def frame_counts(blocks: Iterable[Any], lengths: Tensor) -> list[Tensor]:
    """The frames of recordings after each convolution of the front end; 0 where one is too short.

    Args:
        blocks: of the front end, each of which begins with its convolution.
        lengths: samples of each recording, int64 (B,).
    """
    counts = []
    for block in blocks:
        (kernel,), (stride,) = block[0].kernel_size, block[0].stride
        lengths = (lengths - (kernel - stride)).clamp(min=0) // stride
        counts.append(lengths)
    return counts


class FrontEnd(nn.Module):
    """Samples to what the convolutions make of them.

    Args:
        blocks: `nn.ModuleList` of wav2vec 2.0's front end: a convolution, maybe a norm, and an
            activation each.
        normalize: give each recording mean 0 and variance 1 first.
    """

    def __init__(self, blocks: Any, *, normalize: bool) -> None:
        super().__init__()
        self.blocks, self.normalize = blocks, normalize

    def forward(self, audio: Tensor, lengths: Tensor | None = None) -> Any:
        """
        Args:
            audio: float32 (B, samples).
            lengths: samples of each recording, int64 (B,); None if there is no padding.

        Returns:
            Features (B, C, T), and with ``lengths`` the frames of each recording, int64 (B,).
        """
        if self.normalize:
            audio = _normalized(audio, lengths)
        counts = None if lengths is None else frame_counts(self.blocks, lengths)
        first, *others = self.blocks
        norm = _norm_over_time(first)
        if norm is None:
            features = first(audio[:, None])
        else:
            frames = None if counts is None else counts[0]
            windows, matrix = windows_and_map(audio, first[0], norm, frames)
            features = first[-1](matrix @ windows.transpose(1, 2))
        for block in others:
            features = block(features)
        return features if counts is None else (features, counts[-1])


class BackEnd(nn.Module):
    """What the convolutions of the front end made, to scores of symbols.

    Args:
        model: a CTC model without masks; its encoder is changed.
        log_probabilities: give logarithms of probabilities in place of logits.
    """

    def __init__(self, model: Any, *, log_probabilities: bool) -> None:
        super().__init__()
        self.model, self.log_probabilities = model, log_probabilities
        self.encoder: Any = encoder_of_model(model)
        self.encoder.feature_extractor = nn.Identity()

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """
        Args:
            features: (B, C, T).
            frames: of each recording, int64 (B,); None if there is no padding.

        Returns:
            Scores, (B, T, symbols).
        """
        family = find_backbone(self.encoder)
        with _padding(self.encoder, family.layers(self.encoder), frames):
            output, _ = family.features(self.encoder, features, None)
        found = {"encoder_out": output_layer_of(self.model)(output), "padding_mask": None}
        scores: Tensor = self.model.get_logits(found)
        return F.log_softmax(scores, dim=-1) if self.log_probabilities else scores


def graph_of(model: Any, layout: Layout, *, normalize: bool, opset: int) -> Any:
    """The graph, an `onnx.ModelProto`.

    Args:
        model: as `make_traceable` leaves it, in evaluation mode, on the CPU; it is of no use
            afterwards.
        normalize: give each recording mean 0 and variance 1 within the graph.
        opset: of ONNX's operators.
    """
    encoder: Any = encoder_of_model(model)
    blocks = encoder.feature_extractor.conv_layers
    shortest = _samples_of(blocks, frames=2)
    audio = torch.zeros(2, 2 * shortest + 1)
    features = encoder.feature_extractor(audio)
    lengths = torch.tensor([audio.shape[1], shortest])
    counts = frame_counts(blocks, lengths)[-1]
    padded = layout.lengths is not None
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time", min=shortest)
    frames = torch.export.Dim("frames", min=2)
    with _quietly():
        first = _traced(
            FrontEnd(blocks, normalize=normalize),
            (audio, lengths) if padded else (audio,),
            ({0: batch, 1: time}, {0: batch}) if padded else ({0: batch, 1: time},),
            (layout.inputs, (_FEATURES, _FRAMES) if padded else (_FEATURES,)),
            opset,
        )
        second = _traced(
            BackEnd(model, log_probabilities=layout.log_probabilities),
            (features, counts) if padded else (features,),
            ({0: batch, 2: frames}, {0: batch}) if padded else ({0: batch, 2: frames},),
            ((_FEATURES, _FRAMES) if padded else (_FEATURES,), (layout.scores,)),
            opset,
        )
    return _joined(first, second, layout, opset)


def make_traceable(model: Any) -> None:
    """Leave out of a CTC model without masks what changes no output and cannot be traced."""
    encoder: Any = encoder_of_model(model)
    # Else frames are added to reach an even number, by a branch on the number of samples.
    for module in encoder.modules():
        if hasattr(module, "required_seq_len_multiple"):
            module.required_seq_len_multiple = 1
    encoder.feature_grad_mult = 1.0
    for module in encoder.encoder.pos_conv.modules():
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
    encoder.requires_grad_(False)


def _samples_of(blocks: Any, frames: int) -> int:
    """The fewest samples of which the front end makes so many frames."""
    for block in reversed(blocks):
        (kernel,), (stride,) = block[0].kernel_size, block[0].stride
        frames = (frames - 1) * stride + kernel
    return frames


def _traced(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic: tuple[dict[int, Any], ...],
    names: tuple[Sequence[str], Sequence[str]],
    opset: int,
) -> Any:
    with torch.no_grad():
        program = torch.export.export(
            module.eval(),
            inputs,
            dynamic_shapes=dynamic,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            external_data=False,
            input_names=list(names[0]),
            output_names=list(names[1]),
            verbose=False,
        )
    assert exported is not None
    return exported.model_proto


def _joined(first: Any, second: Any, layout: Layout, opset: int) -> Any:
    """One graph of two, whose inputs and outputs are called as the layout has them."""
    compose, helper = onnx_package("onnx.compose"), onnx_package("onnx.helper")
    shared = [(each.name, each.name) for each in second.graph.input]
    first = compose.add_prefix(first, "front_end/", rename_inputs=False, rename_outputs=False)
    second = compose.add_prefix(second, "back_end/", rename_inputs=False, rename_outputs=False)
    joined = compose.merge_models(first, second, shared, outputs=[layout.scores])
    graph = joined.graph
    scores = graph.output[0].type.tensor_type
    symbols = scores.shape.dim[2].dim_value
    integers = onnx_package("onnx").TensorProto.INT64
    shapes = {layout.audio: ("batch", "time"), layout.scores: ("batch", "frames", symbols)}
    types = {layout.audio: scores.elem_type, layout.scores: scores.elem_type}
    for name in (layout.lengths, layout.frames):
        if name is not None:
            shapes[name], types[name] = ("batch",), integers
    if layout.frames is not None:
        graph.node.append(helper.make_node("Identity", [_FRAMES], [layout.frames]))
    for listed, names in ((graph.input, layout.inputs), (graph.output, layout.outputs)):
        del listed[:]
        listed.extend(helper.make_tensor_value_info(n, types[n], shapes[n]) for n in names)
    # Both halves import the operators, under both names of their domain; and each names its sizes.
    del joined.opset_import[:]
    joined.opset_import.append(helper.make_opsetid("", opset))
    del graph.value_info[:]
    # Which lines of which files on this machine each node was made by.
    for each in (joined, graph, *graph.node, *graph.initializer):
        del each.metadata_props[:]
        each.doc_string = ""
    return joined


def _normalized(audio: Tensor, lengths: Tensor | None) -> Tensor:
    """Recordings with mean 0 and variance 1; padding stays zero."""
    if lengths is None:
        mean = audio.mean(dim=1, keepdim=True)
        centred = audio - mean
        return centred / (centred.square().mean(dim=1, keepdim=True) + _EPSILON).sqrt()
    own = _own(audio.shape[1], lengths).to(audio.dtype)
    count = lengths.clamp(min=1)[:, None].to(audio.dtype)
    mean = (audio * own).sum(dim=1, keepdim=True) / count
    centred = (audio - mean) * own
    return centred / (centred.square().sum(dim=1, keepdim=True) / count + _EPSILON).sqrt()


def _norm_over_time(block: Any) -> nn.GroupNorm | None:
    """The norm of a block over time, of each channel by itself, if it has one."""
    norms = [module for module in block.modules() if isinstance(module, nn.GroupNorm)]
    for norm in norms:
        assert norm.num_groups == norm.num_channels and norm.affine
    return norms[0] if norms else None


def windows_and_map(
    audio: Tensor, convolution: Any, norm: nn.GroupNorm, frames: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A convolution of audio and a norm of each channel over a recording's own frames, as factors.

    Mean and variance of what a linear map gives follow from those of what it is given, here of the
    few samples of a kernel. So the norm becomes part of the map, and outputs, which are a hundred
    times larger than the audio, need not be read for it. A bias would be gone with the mean.

    Args:
        audio: (B, samples).
        frames: of each recording, int64 (B,); None if there is no padding.

    Returns:
        Windows, (B, T, kernel + 1), whose last column is 1, and the map, (B, C, kernel + 1).
    """
    (kernel,), (stride,) = convolution.kernel_size, convolution.stride
    last = audio.shape[1] - kernel + 1
    taps = [audio[:, tap : last + tap : stride] for tap in range(kernel)]
    windows = torch.stack([*taps, torch.ones_like(taps[0])], dim=2)
    # In double precision: where audio changes slowly, the variance is a small rest of large terms.
    heard, weight = windows[:, :, :-1].double(), convolution.weight[:, 0].double()
    size = frames if frames is not None else torch.full((audio.shape[0],), windows.shape[1])
    own = _own(windows.shape[1], size)[:, :, None].to(heard.dtype)
    count = size.clamp(min=1)[:, None, None].to(heard.dtype)
    mean = (heard * own).sum(dim=1, keepdim=True) / count
    centred = (heard - mean) * own
    moments = centred.transpose(1, 2) @ centred / count
    variance = ((weight @ moments) * weight).sum(dim=2)
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    scaled = weight * scale[:, :, None]
    shift = norm.bias.double()[:, None] - scaled @ mean.transpose(1, 2)
    return windows, torch.cat([scaled, shift], dim=2).to(audio.dtype)


@contextmanager
def _padding(encoder: Any, layers: nn.ModuleList, frames: Tensor | None) -> Iterator[None]:
    """Within it, layers attend to each recording's own frames, and positional convolutions find
    zeros beyond them.

    Args:
        frames: of each recording, int64 (B,); None if there is no padding.
    """
    if frames is None:
        yield
        return
    counts = frames

    def silence(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (batch,) = inputs
        return (batch * _own(batch.shape[2], counts)[:, None].to(batch.dtype),)

    def hide(module: nn.Module, inputs: tuple[Tensor], options: dict[str, Any]) -> Any:
        # Where nothing is left to attend to, there would be no numbers.
        own = _own(inputs[0].shape[0], counts.clamp(min=1))
        return inputs, {**options, "self_attn_padding_mask": ~own}

    with ExitStack() as hooks:
        for module in encoder.encoder.pos_conv.modules():
            if isinstance(module, nn.Conv1d):
                hooks.callback(module.register_forward_pre_hook(silence).remove)
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(hide, with_kwargs=True).remove)
        yield


def _own(size: int, counts: Tensor) -> Tensor:
    """Which of ``size`` places are within each count, bool (B, size)."""
    return torch.arange(size)[None] < counts[:, None]


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps exporters' remarks, which are about the code of fairseq, from users."""
    loggers = [logging.getLogger(name) for name in _TELLING]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
