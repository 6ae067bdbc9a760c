"""`speechprune encoder`: the encoder of a finetuned checkpoint, as a pretrained one."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.argument("out", type=_PATH)
def command(checkpoint: Path, out: Path) -> None:
    """Write the encoder of CKPT, a finetuned model, to OUT, for model.w2v_path of further training.

    Masks and gates are baked in. A model that has lost layers, heads or channels is trained further
    so: with OUT as model.w2v_path, and, to keep its head, CKPT as checkpoint.finetune_from_model.
    """
    from speechprune.rewriting.encoder import export_encoder

    export_encoder(checkpoint, out)
    click.echo(f"{out}: a pretrained encoder")
