"""`speechprune export onnx`: a CTC model as a file that onnxruntime and others run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from speechprune import __version__
from speechprune.backbones import find_backbone
from speechprune.checkpoint.file import PathLike
from speechprune.decoding.bank import load_task
from speechprune.decoding.inference import count_parameters, sample_rate
from speechprune.errors import UserError
from speechprune.exporting.comparing import (
    TOLERANCE,
    agreement,
    heard,
    largest_difference,
    refuse_difference,
)
from speechprune.exporting.hearing import model_hears, onnx_hears
from speechprune.exporting.onnx_cost import costs_of
from speechprune.exporting.onnx_description import FLOAT32, INT8, KEY, Description
from speechprune.exporting.onnx_files import write_beside
from speechprune.exporting.onnx_graph import graph_of, make_traceable
from speechprune.exporting.onnx_int8 import quantize
from speechprune.exporting.onnx_layouts import Layout, layout_called
from speechprune.exporting.onnx_packages import check_onnx, onnx_package
from speechprune.exporting.onnx_session import OnnxSession
from speechprune.files import (
    check_output,
    digest,
    folder_beside,
    new_folder,
    put_copy,
    refuse_existing,
    refuse_other_kind,
    refuse_to_replace,
)
from speechprune.models.loading import LoadedRecogniser, as_recogniser
from speechprune.models.sites import encoder_of_model, output_layer_of

logger = logging.getLogger(__name__)

#: Of ONNX's operators: GELU is one from 20 on, and onnxruntime knows no newer ones.
OLDEST_OPSET, OPSET, NEWEST_OPSET = 20, 20, 23
#: The smallest share of frames that are not blank in which a file in 8 bits prefers the symbol that
#: its source does.
AGREEMENT = 0.9
#: A file of Protocol Buffers holds no more.
_MOST_BYTES = (1 << 31) - 1
_NAMES = {FLOAT32: "model.onnx", INT8: "model.int8.onnx"}


class Bounds(NamedTuple):
    """How far a file may be from its source: in float32 by its scores, in 8 bits by `AGREEMENT`."""

    tolerance: float = TOLERANCE
    agreement: float = AGREEMENT


BOUNDS = Bounds()


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        precision: "float32" or "int8".
        size: in bytes.
        difference: the largest of any score from its source's.
        agreement: the share of frames in which both prefer the same symbol, of those in which one
            of them does not prefer the blank.
    """

    path: Path
    precision: str
    size: int
    difference: float
    agreement: float


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
        out: a file; of the layouts with a file of symbols, a new folder.
        task: of a bank.
        layout: one of `speechprune.exporting.onnx_layouts.LAYOUTS`.
        int8: write a file in 8 bits, and no other, or, into a folder, one besides.
        normalize_inside: let the graph normalise recordings, if the model was trained on normalised
            ones; the layout says else who does it.

    Returns:
        What was written.

    Raises:
        UserError: an extra is not installed, the source is no CTC model or cannot be exported, the
            layout or opset is unknown, programs of the layout hear at another sample rate,
            ``out`` cannot be written, or the file is further from its source than ``bounds`` allow:
            then nothing is left of it.
    """
    names = layout_called(layout)
    _check_opset(opset)
    check_onnx()
    _check_place(path, Path(out), names)
    if normalize_inside:
        names = _normalizing(names)
    loaded = as_recogniser(load_task(path, task))
    _refuse_other_rate(loaded, names)
    loaded.model.to("cpu")
    expected = _expected(loaded, names)
    description = _prepared(loaded, names)
    _warn(loaded, names)
    graph = _graph(loaded, names, opset)

    def write(folder: Path) -> list[Exported]:
        written = _written(graph, description, folder, int8=int8)
        return [_compared(each, out, expected, bounds) for each in written]

    if names.symbols is None:
        with folder_beside(out) as folder:
            last = write(folder)[-1]
            put_copy(last.path, Path(out))
        return [replace(last, path=Path(out))]
    with new_folder(out) as folder:
        found = write(folder)
        write_beside(folder, names, description)
    return [replace(each, path=Path(out) / each.path.name) for each in found]


def _check_place(path: PathLike, out: Path, layout: Layout) -> None:
    """Raise UserError if ``out`` cannot be written, or is what is to be exported."""
    if layout.symbols is not None:
        refuse_existing(out)
        return
    refuse_to_replace(out, path)
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out} cannot be written: there is no folder {out.absolute().parent}")
    check_output(out)
    refuse_other_kind(out, "ONNX")


def _normalizing(layout: Layout) -> Layout:
    """A layout whose graph normalises recordings; UserError if the layout itself says who does."""
    if layout.normalizes != "caller":
        raise UserError(
            f"the layout {layout.name} says who normalises recordings: leave out --normalize-inside"
        )
    return replace(layout, normalizes="graph")


def _refuse_other_rate(loaded: LoadedRecogniser, layout: Layout) -> None:
    """Raise UserError if a layout's programs would let a model hear at a rate that is not its own:
    it would write wrong texts."""
    rate = sample_rate(loaded)
    if layout.sample_rate not in (None, rate):
        raise UserError(
            f"{loaded.path} hears recordings at {rate} Hz, but {layout.name} gives every model "
            f"{layout.sample_rate} Hz; leave out --layout {layout.name}, and let whoever calls the "
            f"file resample to {rate} Hz"
        )


def _expected(loaded: LoadedRecogniser, layout: Layout) -> list[Tensor]:
    """The scores that a model gives, on recordings alone and then on a padded batch of them."""
    hear = model_hears(loaded)
    scores = [*heard(hear), *heard(hear, together=True)]
    return [each.log_softmax(-1) for each in scores] if layout.log_probabilities else scores


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


def _written(graph: Any, description: Description, folder: Path, *, int8: bool) -> list[Path]:
    """Write a graph in float32 and, if so wished, in 8 bits; each under its precision's name."""
    try:
        whole = _write(graph, replace(description, precision=FLOAT32), folder)
        if not int8:
            return [whole]
        quantize(whole, folder / _NAMES[INT8])
        small = onnx_package("onnx").load(folder / _NAMES[INT8])
        return [whole, _write(small, replace(description, precision=INT8), folder)]
    except OSError as error:
        raise UserError(f"{folder.parent} cannot be written to: {error.strerror}") from error


def _write(model: Any, description: Description, folder: Path) -> Path:
    """Write a model with its description."""
    onnx_package("onnx.helper").set_model_props(model, {KEY: description.encode()})
    model.producer_name, model.producer_version = "speechprune", __version__
    path = folder / _NAMES[description.precision]
    path.write_bytes(model.SerializeToString())
    return path


def _compared(path: Path, out: PathLike, expected: Sequence[Tensor], bounds: Bounds) -> Exported:
    session = OnnxSession(path)
    hear = onnx_hears(session)
    found = [*heard(hear), *heard(hear, together=True)]
    difference, agreeing = largest_difference(expected, found), agreement(expected, found)
    precision = session.description.precision
    if precision == FLOAT32:
        refuse_difference(out, difference, bounds.tolerance, what="the ONNX file")
    elif not agreeing >= bounds.agreement:
        raise UserError(
            f"{out} is not written: in 8 bits, only {100 * agreeing:.1f} % of the frames that are "
            f"not blank have the best symbol of the model, and at least {100 * bounds.agreement:g} "
            "% have to (--agreement)"
        )
    return Exported(path, precision, path.stat().st_size, difference, agreeing)
