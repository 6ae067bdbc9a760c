"""`speechprune export huggingface`: a checkpoint as a folder of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from speechprune.tools._options import Number

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.argument("out", metavar="DIR", type=_PATH)
@click.option("--task", metavar="NAME", help="Task of a bank to export.")
@click.option(
    "--tolerance",
    type=Number(0),
    default=1e-4,
    show_default=True,
    help="Largest difference of outputs from those of CKPT at which DIR is kept.",
)
@click.option(
    "--data",
    type=_PATH,
    help="Folder of manifests to measure the error rate on, which goes on the model card.",
)
@click.option("--subset", help="Name of the manifest to measure it on, such as test-clean.")
def huggingface(
    checkpoint: Path,
    out: Path,
    task: Optional[str],
    tolerance: float,
    data: Optional[Path],
    subset: Optional[str],
) -> None:
    """Write CKPT to DIR, a new folder that Hugging Face's transformers loads.

    CKPT is a wav2vec 2.0, HuBERT or data2vec model: finetuned for CTC or for one slot of labels, or
    pretrained, whose pretraining heads are left out. It may be a bank, of which --task names a
    task. Masks are baked in. Slim models have no place in Hugging Face's files.

    DIR has the configuration, the weights, what prepares audio, the vocabulary, and a model card
    with where the model is from. Its error rate is measured on --data and --subset, or else that of
    the last validation in training.
    """
    from speechprune.exporting.huggingface_export import export_huggingface

    if (data is None) != (subset is None):
        raise click.UsageError("--data and --subset go together.")
    on = None if data is None or subset is None else (data, subset)
    found = export_huggingface(checkpoint, out, task=task, tolerance=tolerance, measured_on=on)
    click.echo(
        f"{out}: a {found.kind}, whose outputs differ by at most {found.difference:.1e} on noise"
    )
