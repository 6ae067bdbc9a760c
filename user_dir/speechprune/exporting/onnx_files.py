"""What lies beside ONNX files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from speechprune.exporting.onnx_layouts import ONNX_ASR, Layout, symbol_lines

#: What onnx-asr reads of a folder: the kind of the model, and how many samples make 10 ms of its
#: frames.
_ONNX_ASR = {"model_type": "wav2vec2-ctc", "subsampling_factor": 320}


def write_symbols(folder: Path, layout: Layout, symbols: Sequence[str]) -> None:
    """Write what a layout wants beside the model."""
    assert layout.symbols is not None
    (folder / layout.symbols).write_text(symbol_lines(symbols), encoding="utf-8")
    if layout.name == ONNX_ASR.name:
        text = json.dumps(_ONNX_ASR, indent=2)
        (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
