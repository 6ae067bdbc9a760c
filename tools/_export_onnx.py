"""`speechprune export onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from speechprune.tools._options import Number, whole_number

_PATH = click.Path(path_type=Path)


@click.command("onnx")
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--task", metavar="NAME", help="Task to export, if CKPT is a bank.")
@click.option(
    "--layout",
    default="plain",
    show_default=True,
    help="Names of inputs and outputs, and what lies beside the model: plain, onnx-asr (from "
    "onnx-asr after 0.12) or sherpa-onnx. The last two make OUT a folder.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="Write the model in 8 bits; into a folder, besides the one in float32.",
)
@click.option(
    "--normalize-inside",
    is_flag=True,
    help="Let the plain layout normalise recordings itself, if the model was trained on normalised "
    "ones; else its caller does.",
)
@click.option(
    "--opset",
    default=20,
    show_default=True,
    type=whole_number(0),
    help="Version of ONNX's operators, from 20 to 23.",
)
@click.option(
    "--tolerance",
    default=1e-4,
    show_default=True,
    type=Number(0),
    help="Largest difference of any score from the model's, in float32.",
)
@click.option(
    "--agreement",
    default=0.9,
    show_default=True,
    type=Number(0, 1),
    help="Smallest share of frames, of those that are not blank, that have the model's best symbol "
    "in 8 bits.",
)
def onnx(
    checkpoint: Path,
    out: Path,
    task: Optional[str],
    layout: str,
    int8: bool,
    normalize_inside: bool,
    opset: int,
    tolerance: float,
    agreement: float,
) -> None:
    """Write CKPT, a CTC model, as ONNX to OUT, with its masks folded.

    Batch and time are dynamic, and each recording of a padded batch is heard as if it were alone.
    The file says in its metadata what it takes to use it: `transcribe`, `evaluate` and `benchmark`
    need nothing else.

    The file is compared with the model on noise of odd and even lengths before it is kept.
    """
    from speechprune.exporting.onnx_export import Bounds, export_onnx

    written = export_onnx(
        checkpoint,
        out,
        task=task,
        layout=layout,
        int8=int8,
        normalize_inside=normalize_inside,
        opset=opset,
        bounds=Bounds(tolerance, agreement),
    )
    for each in written:
        click.echo(
            f"{each.path}: {each.size:,} bytes in {each.precision}; scores differ from the model's "
            f"by {each.difference:.2g} at most, and {100 * each.agreement:.1f} % of the frames "
            "that are not blank have its best symbol"
        )
