"""`speechprune convert`: a HuBERT encoder as a wav2vec 2.0 file with equal outputs."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.argument("out", type=_PATH)
@click.option(
    "--to",
    "family",
    default="wav2vec2",
    show_default=True,
    help="Model family of the new file, as fairseq calls it.",
)
@click.option("--half", is_flag=True, help="Store the weights in half precision.")
def command(checkpoint: Path, out: Path, family: str, half: bool) -> None:
    """Write the encoder of CKPT, pretrained or finetuned, as a pretrained file of another family.

    HuBERT has wav2vec 2.0's network: whatever reads wav2vec 2.0 files can finetune from OUT. Masks
    are baked in. Both files give equal outputs without padding, which is checked before OUT is
    written; in padded batches the two families count an utterance's frames in different ways.
    """
    import torch

    from speechprune.rewriting.conversion import convert

    convert(checkpoint, out, to=family, dtype=torch.float16 if half else None)
    click.echo(f"{out}: a pretrained {family} checkpoint")
