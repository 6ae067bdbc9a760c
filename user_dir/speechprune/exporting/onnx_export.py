"""`speechprune export onnx`: a CTC model as a file that onnxruntime and others run."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechprune import __version__
from speechprune.backbones import find_backbone
from speechprune.checkpoint.file import PathLike
from speechprune.decoding.bank import load_task
from speechprune.decoding.inference import count_parameters, sample_rate
from speechprune.errors import UserError
from speechprune.exporting.onnx_comparing import Comparison, compared, scores_of
from speechprune.exporting.onnx_cost import costs_of
from speechprune.exporting.onnx_description import FLOAT32, INT8, KEY, Description
from speechprune.exporting.onnx_files import check_place, put_file, put_folder, write_symbols
from speechprune.exporting.onnx_graph import graph_of, make_traceable
from speechprune.exporting.onnx_int8 import quantize
from speechprune.exporting.onnx_layouts import Layout, layout_called
from speechprune.exporting.onnx_packages import check_onnx, onnx_package
from speechprune.exporting.onnx_session import OnnxSession
from speechprune.files import digest, refuse_to_replace
from speechprune.models.loading import LoadedRecogniser, as_recogniser
from speechprune.models.sites import encoder_of_model, output_layer_of

logger = logging.getLogger(__name__)

#: Of ONNX's operators: GELU is one from 20 on, and onnxruntime knows no newer ones.
OLDEST_OPSET, OPSET, NEWEST_OPSET = 20, 20, 23
#: How far a file may be from its source: the largest difference of any score in float32, and the
#: smallest share of frames with the same best symbol in int8.
TOLERANCE, AGREEMENT = 1e-4, 0.9
#: A file of Protocol Buffers holds no more.
_MOST_BYTES = (1 << 31) - 1
_NAMES = {FLOAT32: "model.onnx", INT8: "model.int8.onnx"}


class Bounds(NamedTuple):
    """How far a file may be from its source, as `TOLERANCE` and `AGREEMENT`."""

    tolerance: float = TOLERANCE
    agreement: float = AGREEMENT


BOUNDS = Bounds()


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        precision: "float32" or "int8".
        size: in bytes.
        comparison: with its source.
    """

    path: Path
    precision: str
    size: int
    comparison: Comparison


def export_onnx(
    path: PathLike,
    out: PathLike,
    *,
    task: str | None = None,
    layout: str = "plain",
    int8: bool = False,
    normalize_inside: bool = False,
    opset: int = OPSET,
    bounds: Bounds = BOUNDS,
) -> list[Exported]:
    """Write a CTC model, with its masks folded, as ONNX, and compare the file with the model.

    Args:
        path: the checkpoint, or a bank.
        out: a file; of the layouts with a file of symbols, a folder that is not there yet.
        task: of a bank.
        layout: one of `speechprune.exporting.onnx_layouts.LAYOUTS`.
        int8: write a file in 8 bits, and no other, or, into a folder, one besides.
        normalize_inside: let the graph normalise recordings, if the model was trained on normalised
            ones; the layout says else who does it.

    Returns:
        What was written.

    Raises:
        UserError: an extra is not installed, the source is no CTC model or cannot be exported, the
            layout or opset is unknown, ``out`` cannot be written, or the file is further from its
            source than ``bounds`` allow: then nothing is left of it.
    """
    names = layout_called(layout)
    _check_opset(opset)
    check_onnx()
    refuse_to_replace_source(path, out, names)
    if normalize_inside and names.normalizes != "caller":
        raise UserError(
            f"the layout {layout} says who normalises recordings: leave out --normalize-inside"
        )
    loaded = as_recogniser(load_task(path, task))
    loaded.model.to("cpu")
    if normalize_inside:
        names = replace(names, normalizes="graph")
    expected = scores_of(loaded)
    description = _prepared(loaded, names)
    _warn(loaded, names)
    graph = _graph(loaded, names, opset)
    with _staging(Path(out)) as staging:
        written = [_write(graph, replace(description, precision=FLOAT32), staging, path)]
        if int8:
            quantized = staging / _NAMES[INT8]
            quantize(written[0], quantized)
            onnx = onnx_package("onnx")
            written.append(
                _write(onnx.load(quantized), replace(description, precision=INT8), staging, path)
            )
        found = [_compared(each, out, expected, bounds) for each in written]
        if names.symbols is not None:
            write_symbols(staging, names, description.symbols)
            put_folder(staging, Path(out))
            return [replace(each, path=Path(out) / each.path.name) for each in found]
        put_file(found[-1].path, Path(out))
        return [replace(found[-1], path=Path(out))]


def refuse_to_replace_source(path: PathLike, out: PathLike, layout: Layout) -> None:
    """Raise UserError if what is to be written would replace what it is made of, or something of
    another kind."""
    if layout.symbols is None:
        refuse_to_replace(out, path)
    check_place(Path(out), is_folder=layout.symbols is not None)


def _check_opset(opset: int) -> None:
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UserError(
            f"opset {opset} cannot be written: give one from {OLDEST_OPSET} to {NEWEST_OPSET}"
        )


def _prepared(loaded: LoadedRecogniser, layout: Layout) -> Description:
    """Fold a model's masks, and describe it."""
    model, density = loaded.model, loaded.density
    # Before weight norm is baked in, which has some of its own.
    parameters = count_parameters(model)
    if hasattr(model, "fold"):
        model.fold()
    make_traceable(model)
    encoder = encoder_of_model(model)
    head: Any = output_layer_of(model)
    trained = bool(loaded.cfg.task.get("normalize"))
    return Description(
        layout=layout.name,
        precision=FLOAT32,
        sample_rate=sample_rate(loaded),
        normalize={"caller": trained, "graph": False, "always": True}[layout.normalizes],
        trained_normalized=trained,
        labels=str(loaded.cfg.task.labels),
        symbols=tuple(loaded.dictionary.symbols),
        parameters=parameters,
        density=density,
        costs=costs_of(encoder, head),
        family=find_backbone(encoder).fairseq_name,
        source=loaded.path.name,
        digest=digest(loaded.path),
        provenance=dict(loaded.provenance),
        version=__version__,
    )


def _warn(loaded: LoadedRecogniser, layout: Layout) -> None:
    if layout.normalizes == "always" and not loaded.cfg.task.get("normalize"):
        logger.warning(
            f"{loaded.path} was trained on recordings as they are, but {layout.name} normalises "
            "all: see what `speechprune evaluate` says of the file, which normalises them too"
        )


def _graph(loaded: LoadedRecogniser, layout: Layout, opset: int) -> Any:
    inside = layout.normalizes == "graph" and bool(loaded.cfg.task.get("normalize"))
    size = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    if size > _MOST_BYTES:
        raise UserError(
            f"{loaded.path} has {size:,} bytes of weights, and an ONNX file holds "
            f"{_MOST_BYTES:,} at most; slim it, or drop layers"
        )
    try:
        return graph_of(loaded.model, layout, normalize=inside, opset=opset)
    # The exporter has errors of many classes, and lays the blame on whoever calls it.
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{loaded.path} cannot be exported to ONNX: {reason}") from error


def _write(model: Any, description: Description, folder: Path, source: PathLike) -> Path:
    """Write a model with its description under the name of its precision."""
    helper = onnx_package("onnx.helper")
    helper.set_model_props(model, {KEY: description.encode()})
    model.producer_name, model.producer_version = "speechprune", __version__
    path = folder / _NAMES[description.precision]
    try:
        path.write_bytes(model.SerializeToString())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _compared(
    path: Path, out: PathLike, expected: Sequence[np.ndarray], bounds: Bounds
) -> Exported:
    session = OnnxSession(path)
    found = compared(session, expected)
    precision = session.description.precision
    if precision == FLOAT32 and not found.difference <= bounds.tolerance:
        raise UserError(
            f"{out} is not written: its scores differ from the model's by up to "
            f"{found.difference:.2g}, which is more than {bounds.tolerance:g}"
        )
    if precision == INT8 and not found.agreement >= bounds.agreement:
        raise UserError(
            f"{out} is not written: in 8 bits, only {100 * found.agreement:.1f} % of the frames "
            f"have the best symbol of the model, which is less than {100 * bounds.agreement:g} %"
        )
    return Exported(path, precision, path.stat().st_size, found)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, which is gone in the end unless it was renamed."""
    folder = Path(os.path.realpath(out))
    folder = folder.with_name(f".{folder.name[:40]}.{os.getpid()}.onnx")
    try:
        folder.mkdir()
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
