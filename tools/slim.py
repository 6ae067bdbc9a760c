"""`speechprune slim`: find heads and channels that can go, and cut them out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import click

from speechprune.errors import UserError
from speechprune.tools._options import SEED, Number, finetunes, whole_number

_PATH = click.Path(path_type=Path)
#: Those that are removed, and those that are kept.
_REMOVED, _KEPT = Number(0.0, 1.0, max_open=True), Number(0.0, 1.0, min_open=True)
#: More takes too much memory: attention weights are counted for each pair of frames.
_LONGEST = 60.0
#: For the same reason; more than models take.
_MOST_SYMBOLS = 1 << 13
#: More channels than any layer has.
_MOST_CHANNELS = 1 << 16
_MULTIPLE = click.option(
    "--multiple-of",
    type=whole_number(1, _MOST_CHANNELS),
    default=1,
    metavar="M",
    help="What the number of channels that a layer keeps is rounded up to a multiple of; under a "
    "budget without training, down.",
)
_AMOUNTS = (
    click.option("--ffn", type=_REMOVED, help="Share of the feed-forward channels to remove."),
    click.option("--heads", type=_REMOVED, help="Share of the attention heads to remove."),
    click.option(
        "--keep-parameters",
        type=_KEPT,
        metavar="SHARE",
        help="Share of the encoder's parameters to keep, instead of --ffn and --heads.",
    ),
    click.option(
        "--keep-macs",
        type=_KEPT,
        metavar="SHARE",
        help="Share of the encoder's multiply-adds to keep, likewise, for 10 s of audio or 128 "
        "symbols of text.",
    ),
)


def _amounts(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how much of an encoder goes: shares of its units, or one budget."""
    for option in reversed(_AMOUNTS):
        function = option(function)
    return function


def _refuse_two_ways(shares: Sequence[float | None], *budgets: float | None) -> None:
    """Raise UserError unless either shares or one budget were given."""
    given = [budget for budget in budgets if budget is not None]
    if len(given) + any(share is not None for share in shares) != 1:
        raise UserError(
            "say how much to remove in one way: by --ffn and --heads, by --keep-parameters, or by "
            "--keep-macs"
        )


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
    show_default="10",
    help="Length of the utterance that multiply-adds are counted for.",
)
@click.option(
    "--symbols",
    type=whole_number(1, _MOST_SYMBOLS),
    show_default="128, or the most that it takes",
    help="The same of a text, for a model of text.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def find(checkpoint: Path, seconds: Optional[float], symbols: Optional[int], as_json: bool) -> None:
    """Show the heads and channels of each layer of CKPT, a pretrained or finetuned model.

    For each layer: how many there are, how many of them `slim apply` can remove with equal outputs,
    and their share of the encoder's parameters and multiply-adds.
    """
    from speechprune.reports.slimming import find_units

    found = find_units(checkpoint, seconds=seconds, symbols=symbols)
    click.echo(json.dumps(found.describe()) if as_json else found.in_words())


@command.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.argument("out", type=_PATH)
@_MULTIPLE
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
@_amounts
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
@finetunes(
    train="Split to finetune on.",
    valid="Split to choose checkpoints on.",
    updates="Number of updates while heads and channels go; by default as in the config.",
)
@click.option(
    "--then-updates",
    type=whole_number(0),
    help="Number of updates after they are cut out; by default 0, and for l0 as many as before.",
)
@_MULTIPLE
def auto(
    checkpoint: Path,
    out: Path,
    as_json: bool,
    ffn: Optional[float],
    heads: Optional[float],
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

    _refuse_two_ways((ffn, heads), keep_parameters, keep_macs)
    amounts = Amounts(ffn or 0.0, heads or 0.0, keep_parameters, keep_macs, criterion, scope)
    slimming = pipeline(checkpoint, out, amounts=amounts, **options)
    report = slimming.run(lambda line: click.echo(line, err=True))
    click.echo((report / ("report.json" if as_json else "report.md")).read_text(encoding="utf-8"))


@command.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.argument("out", type=_PATH)
@_amounts
@click.option(
    "--criterion",
    metavar="NAME",
    show_default="snip_momentum for a finetuned model with --data, else magnitude",
    help="What units are scored by: magnitude, or, from gradients on labelled data, "
    "snip_momentum, snip or gradient.",
)
@click.option(
    "--scope",
    type=click.Choice(["local", "global", "global_normalised"]),
    show_default="local for shares, global_normalised for a budget",
    help="What is ranked together: the units of a layer, or all, by score or by score relative to "
    "the mean of the layer.",
)
@_MULTIPLE
@click.option(
    "--data", type=_PATH, help="Folder of manifests, or of sentences, to score and repair by."
)
@click.option("--subset", help="Name of the manifest, or of the split of sentences.")
@click.option("--repair", is_flag=True, help="Refit the weights that stay on the data.")
@click.option("--batches", type=whole_number(1), default=8, help="Number of batches to draw.")
@click.option(
    "--batch-size",
    type=whole_number(1),
    default=8,
    help="Utterances or sentences in a batch.",
)
@click.option(
    "--max-tokens",
    type=whole_number(1),
    show_default="as in evaluate",
    help="Most audio samples, or symbols of text, that go through the model at once, padding "
    "included.",
)
@click.option("--seed", type=SEED, default=0, help="Seed of the draw.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of the tables."
)
def prune(checkpoint: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Remove the heads and channels of CKPT that matter least, without training, and write OUT.

    CKPT is a pretrained or finetuned model, and OUT loads wherever CKPT does in speechprune. Masks
    are baked in.

    With --repair, the output weights of both blocks of each layer are refitted by least squares,
    layer by layer, so that with the units that stay each block gives what the whole one gave;
    errors before and after are relative to its output.

    A budget ranks the heads and channels of all layers together, by their importance for their
    cost.
    """
    from speechprune.rewriting.one_shot import prune as prune_checkpoint

    amount, draw = _amount(options), _draw(options)
    report = prune_checkpoint(
        checkpoint,
        out,
        amount,
        criterion=options["criterion"],
        draw=draw,
        repaired=options["repair"],
    )
    click.echo(json.dumps(report.describe()) if as_json else f"{out}:\n{report.in_words()}")


def _amount(options: dict[str, Any]) -> Any:
    """How much to remove: shares, or one budget."""
    from speechprune.slimming.choice import BudgetChoice, ShareChoice

    multiple_of, scope = options["multiple_of"], options["scope"]
    shares = [options[name] for name in ("ffn", "heads")]
    budgets = {"parameters": options["keep_parameters"], "multiply_adds": options["keep_macs"]}
    _refuse_two_ways(shares, *budgets.values())
    given = {measure: share for measure, share in budgets.items() if share is not None}
    if not given:
        ffn, heads = (share or 0.0 for share in shares)
        return ShareChoice(heads, ffn, scope or "local", multiple_of)
    if scope == "local":
        raise UserError("a budget is shared by all layers: --scope local cannot go with it")
    ((measure, share),) = given.items()
    return BudgetChoice(share, scope != "global", multiple_of, measure)


def _draw(options: dict[str, Any]) -> Any:
    """What data to draw; None without any."""
    from speechprune.rewriting.calibration import Draw

    data, subset = options["data"], options["subset"]
    if (data is None) != (subset is None):
        raise UserError("--data and --subset go together: the folder and the manifest in it")
    if data is None:
        return None
    sizes = {name: options[name] for name in ("batches", "batch_size", "max_tokens", "seed")}
    return Draw(data, subset, **sizes)
