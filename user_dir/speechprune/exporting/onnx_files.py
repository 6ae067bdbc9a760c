"""What lies beside ONNX files."""

from __future__ import annotations

import json
from pathlib import Path

from speechprune.exporting.onnx_description import Description
from speechprune.exporting.onnx_layouts import ONNX_ASR, Layout, symbol_lines

#: What onnx-asr calls models of this kind.
_ONNX_ASR_TYPE = "wav2vec2-ctc"


def write_beside(folder: Path, layout: Layout, description: Description) -> None:
    """Write what a layout wants beside the model that is described."""
    assert layout.symbols is not None
    (folder / layout.symbols).write_text(symbol_lines(description.symbols), encoding="utf-8")
    if layout.name == ONNX_ASR.name:
        stride = description.costs.samples_per_frame
        text = json.dumps({"model_type": _ONNX_ASR_TYPE, "subsampling_factor": stride}, indent=2)
        (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
