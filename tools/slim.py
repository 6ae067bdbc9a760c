"""`speechprune slim`: find heads and channels that can go, and cut them out."""

from __future__ import annotations

import json
from pathlib import Path

import click

from speechprune.tools._options import Number, whole_number

_PATH = click.Path(path_type=Path)
#: More takes too much memory: attention weights are counted for each pair of frames.
_LONGEST = 60.0


@click.group(context_settings={"show_default": True})
def command() -> None:
    """Find attention heads and feed-forward channels that can go, and cut them out.

    Files that are written here load wherever speechprune loads others. Unmodified fairseq cannot
    open them: their layers differ in their heads and channels.
    """


@command.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.option(
    "--seconds",
    type=Number(0.1, _LONGEST),
    default=10.0,
    help="Length of the utterance that multiply-adds are counted for.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def find(checkpoint: Path, seconds: float, as_json: bool) -> None:
    """Show the heads and channels of each layer of CKPT, a pretrained or finetuned model.

    For each layer: how many there are, how many of them `slim apply` can remove with equal outputs,
    and their share of the encoder's parameters and multiply-adds.
    """
    from speechprune.reports.slimming import find_units

    found = find_units(checkpoint, seconds)
    click.echo(json.dumps(found.describe()) if as_json else found.in_words())


@command.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.argument("out", type=_PATH)
@click.option(
    "--multiple-of",
    type=whole_number(1, 1 << 16),
    default=1,
    metavar="M",
    help="Number that the channels of each layer stay a multiple of; some that could go stay then.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def apply(checkpoint: Path, out: Path, multiple_of: int, as_json: bool) -> None:
    """Write CKPT to OUT without the heads and channels that change nothing.

    CKPT is any pretrained or finetuned model. Its masks are baked in first. What is zero where it
    writes goes as it is; what is zero where it reads adds the same to each frame, which goes to a
    bias. Outputs stay equal.
    """
    from speechprune.rewriting.slimming import apply as apply_slimming

    report = apply_slimming(checkpoint, out, multiple_of=multiple_of)
    click.echo(json.dumps(report.describe()) if as_json else f"{out}:\n{report.in_words()}")
