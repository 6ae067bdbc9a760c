"""Where ONNX files are put, and what lies beside them: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from speechprune.errors import UserError
from speechprune.exporting.onnx_layouts import ONNX_ASR, Layout, symbol_lines
from speechprune.files import check_output, refuse_other_kind, replacing_file, sync

#: What onnx-asr reads of a folder: the kind of the model, and how many samples make 10 ms of its
#: frames.
_ONNX_ASR = {"model_type": "wav2vec2-ctc", "subsampling_factor": 320}


def check_place(out: Path, *, is_folder: bool) -> None:
    """Raise UserError if nothing can be put at ``out``: an ONNX file in the place of another one,
    or a folder in the place of none or of an empty one."""
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out} cannot be written: there is no folder {out.absolute().parent}")
    if not is_folder:
        check_output(out)
        refuse_other_kind(out, "ONNX")
    elif out.is_dir():
        if any(out.iterdir()):
            raise UserError(f"{out} is there already, and holds files; name a new folder")
    elif out.exists() or out.is_symlink():
        check_output(out)
        raise UserError(f"{out} is a file; name a folder, which this layout takes")


def put_file(written: Path, out: Path) -> None:
    """Put a file at ``out``; raises UserError as `replacing_file`."""
    with replacing_file(out) as file, open(written, "rb") as source:
        shutil.copyfileobj(source, file)


def put_folder(written: Path, out: Path) -> None:
    """Make a folder the one at ``out``; raises UserError if that cannot be done."""
    check_place(out, is_folder=True)
    try:
        for file in written.iterdir():
            sync(file)
        os.replace(written, os.path.realpath(out))
        sync(out.absolute().parent)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from error


def write_symbols(folder: Path, layout: Layout, symbols: Sequence[str]) -> None:
    """Write what a layout wants beside the model."""
    assert layout.symbols is not None
    (folder / layout.symbols).write_text(symbol_lines(symbols), encoding="utf-8")
    if layout.name == ONNX_ASR.name:
        text = json.dumps(_ONNX_ASR, indent=2)
        (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
