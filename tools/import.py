"""`speechprune import`: models of other libraries as checkpoints of fairseq's."""

from __future__ import annotations

from pathlib import Path

import click

from speechprune.tools._options import Number

_PATH = click.Path(path_type=Path)


@click.group("import")
def command() -> None:
    """Write a model of another library as a checkpoint that trains here."""


@command.command()
@click.argument("folder", metavar="DIR", type=_PATH)
@click.argument("out", metavar="CKPT", type=_PATH)
@click.option(
    "--tolerance",
    type=Number(0),
    default=1e-4,
    show_default=True,
    help="Largest difference of outputs from those of DIR at which CKPT is written.",
)
def huggingface(folder: Path, out: Path, tolerance: float) -> None:
    """Write the model in DIR, a folder of Hugging Face's transformers, to CKPT.

    DIR holds a wav2vec 2.0, HuBERT or data2vec model, as `hf download` fetches it. A CTC model
    becomes a finetuned checkpoint with its dictionary; every other one becomes a pretrained
    checkpoint, for model.w2v_path. Nothing in DIR is run: weights are read as safetensors where
    they are there, and else as a pickle of tensors only.
    """
    from speechprune.exporting.huggingface_import import import_huggingface

    found = import_huggingface(folder, out, tolerance=tolerance)
    kind = "finetuned" if found.is_finetuned else "pretrained"
    click.echo(
        f"{out}: a {kind} {found.family} checkpoint, whose outputs differ by at most "
        f"{found.difference:.1e} on noise"
    )
    if found.left_out:
        click.echo(f"left out, for fairseq has no such head: {', '.join(found.left_out)}")
    if not found.has_span_embedding:
        click.echo("the embedding of masked spans is zeros: the folder has none")
