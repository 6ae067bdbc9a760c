"""`speechprune slim`: find heads and channels that can go, and cut them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

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


@command.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.option(
    "--ffn", type=Number(0.0, 1.0), default=0.0, help="Share of the channels that is removed."
)
@click.option(
    "--heads", type=Number(0.0, 1.0), default=0.0, help="Share of the heads that is removed."
)
@click.option(
    "--keep-parameters",
    type=Number(0.0, 1.0),
    help="In place of shares: share of the encoder's parameters that is kept.",
)
@click.option(
    "--keep-macs",
    type=Number(0.0, 1.0),
    help="In place of shares: share of the encoder's multiply-adds that is kept.",
)
@click.option(
    "--criterion",
    default="snip_momentum",
    help="Rule that scores: snip_momentum, snip, gradient or magnitude; or l0, gates that learn.",
)
@click.option(
    "--scope",
    default="local",
    help="What is ranked together: local, global or global_normalised.",
)
@click.option("--data", required=True, type=_PATH, help="Folder of manifests.")
@click.option("--train", required=True, help="Split to finetune on.")
@click.option("--valid", required=True, help="Split to choose checkpoints on.")
@click.option("--test", help="Split for the last evaluation; without it there is none.")
@click.option(
    "--config-name", "config", default="finetuning/base_1h", help="Config to finetune by."
)
@click.option(
    "--updates",
    type=whole_number(1),
    help="Number of updates while heads and channels go; by default as in the config.",
)
@click.option(
    "--then-updates",
    type=whole_number(0),
    help="Number of updates after they are cut out; by default 0, and for l0 as many as before.",
)
@click.option(
    "--multiple-of",
    type=whole_number(1, 1 << 16),
    default=1,
    metavar="M",
    help="Number that the channels of each layer stay a multiple of.",
)
@click.option(
    "--average",
    "num",
    default=10,
    type=whole_number(1),
    help="Number of checkpoints to average.",
)
@click.option(
    "--average-by",
    type=click.Choice(["valid", "last"]),
    default="valid",
    help="Which checkpoints are averaged: the best in validation, or the last.",
)
@click.option("--allow-test", is_flag=True, help="Allow a --valid whose name says test.")
@click.option("--out", required=True, type=_PATH, help="Folder that everything is written to.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of text.")
@click.argument("overrides", nargs=-1)
def auto(
    checkpoint: Path,
    out: Path,
    as_json: bool,
    ffn: float,
    heads: float,
    keep_parameters: Optional[float],
    keep_macs: Optional[float],
    criterion: str,
    scope: str,
    **options: Any,
) -> None:
    """Prune CKPT while finetuning it, cut out what went, average and evaluate.

    CKPT is a pretrained or a finetuned model without masks. All weights train by the config with
    OVERRIDES, while more and more heads and channels go; those are cut out of the last checkpoint
    and of the average of several, and OUT gets one report: report.md, .json and .png. If it is
    interrupted, the same command continues.
    """
    from speechprune.autoslim.pipeline import pipeline
    from speechprune.autoslim.training import Amounts

    amounts = Amounts(ffn, heads, keep_parameters, keep_macs, criterion, scope)
    slimming = pipeline(checkpoint, out, amounts=amounts, **options)
    report = slimming.run(lambda line: click.echo(line, err=True))
    click.echo((report / ("report.json" if as_json else "report.md")).read_text(encoding="utf-8"))
