"""Where ONNX files are put, and what lies beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from speechprune.exporting.onnx_layouts import ONNX_ASR, Layout, symbol_lines
from speechprune.files import replacing_file

#: What onnx-asr reads of a folder: the kind of the model, and how many samples make 10 ms of its
#: frames.
_ONNX_ASR = {"model_type": "wav2vec2-ctc", "subsampling_factor": 320}


def put_file(written: Path, out: Path) -> None:
    """Put a file at ``out``; raises UserError as `replacing_file`."""
    with replacing_file(out) as file, open(written, "rb") as source:
        shutil.copyfileobj(source, file)


def write_symbols(folder: Path, layout: Layout, symbols: Sequence[str]) -> None:
    """Write what a layout wants beside the model."""
    assert layout.symbols is not None
    (folder / layout.symbols).write_text(symbol_lines(symbols), encoding="utf-8")
    if layout.name == ONNX_ASR.name:
        text = json.dumps(_ONNX_ASR, indent=2)
        (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
