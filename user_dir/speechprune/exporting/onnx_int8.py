"""ONNX files in 8 bits: products of matrices computed in them, and convolutions stored in them.

Weights of linear layers are quantised once, and what they are multiplied by for each input (dynamic
quantisation, by onnxruntime). Weights of convolutions are stored in 8 bits, with a scale for each
output channel, and multiply in float32: with one scale for all of its frames, the front end hears
nothing in what is quiet.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from speechprune.exporting.onnx_packages import onnx_package

#: Convolutions with fewer weights stay as they are: there is nothing to save.
_FEWEST = 1 << 12
_LARGEST = 127


def quantize(source: Path, out: Path) -> None:
    """Write the ONNX file ``source`` in 8 bits to ``out``, without its metadata."""
    quantization = onnx_package("onnxruntime.quantization")
    onnx = onnx_package("onnx")
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises preparations that change nothing here
    try:
        quantization.quantize_dynamic(
            source,
            out,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=quantization.QuantType.QInt8,
            # Weights take 7 of the 8 bits: older processors add two products in 16 bits, and cut
            # off in silence what is too large for these.
            reduce_range=True,
        )
    finally:
        logger.setLevel(level)
    model = onnx.load(out)
    store_convolutions(model)
    onnx.save(model, out)


def store_convolutions(model: Any) -> None:
    """Store the weights of convolutions in 8 bits, (output channels, ...), by output channel.

    Args:
        model: an `onnx.ModelProto`; changed in place.
    """
    arrays, helper = onnx_package("onnx.numpy_helper"), onnx_package("onnx.helper")
    graph = model.graph
    initializers = {each.name: each for each in graph.initializer}
    nodes = []
    for node in graph.node:
        weight = initializers.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is not None and np.prod(weight.dims) >= _FEWEST:
            whole, scales = _in_8_bits(arrays.to_array(weight))
            name = weight.name
            graph.initializer.remove(weight)
            graph.initializer.extend(
                [
                    arrays.from_array(whole, f"{name}/int8"),
                    arrays.from_array(scales, f"{name}/scale"),
                ]
            )
            inputs = [f"{name}/int8", f"{name}/scale"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [name], axis=0))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _in_8_bits(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 in the shape of ``weight``, and what each output channel is to be multiplied by."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scales = np.where(largest > 0, largest / _LARGEST, 1.0).astype(np.float32)
    by_channel = scales.reshape(-1, *[1] * (weight.ndim - 1))
    return np.rint(weight / by_channel).astype(np.int8), scales
