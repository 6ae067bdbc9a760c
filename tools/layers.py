"""`speechprune layers`: find layers to drop, verify, and drop them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Optional, Union

import click

from speechprune.errors import UserError
from speechprune.files import check_folder, make_folder, refuse_to_replace
from speechprune.layers.plan import read_plans
from speechprune.tools._options import SEED, Number, finetunes, whole_number

_PATH = click.Path(path_type=Path)
_DATA = "Folder of manifests, or of texts, as `prepare glue` makes it."
_drop = click.option(
    "--drop", required=True, type=whole_number(0), metavar="K", help="Number of layers to drop."
)
_by = click.option(
    "--by",
    type=click.Choice(["cer", "wer", "error"]),
    help="Error rate that ranks plans; by default cer for letters, else wer. Plans for a model of "
    "text are ranked by error, 1 less the first metric of the task.",
)
_race = click.option("--race", is_flag=True, help="Stop plans that are clearly worse early.")


@click.group(context_settings={"show_default": True})
def command() -> None:
    """Find layers to drop, measure what is left, and drop them. Layers are 0-based."""


@command.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.option("--data", required=True, type=_PATH, help=_DATA)
@click.option("--subset", required=True, help="Name of the split, which needs no labels.")
@click.option(
    "--measure",
    "measures",
    multiple=True,
    default=("svcca",),
    help="Measure of similarity: svcca, dc, dc-unbiased or cka; repeatable, in one pass.",
)
@click.option(
    "--utterances", type=whole_number(1), help="Number of utterances to draw; all by default."
)
@click.option(
    "--mode",
    type=click.Choice(["U", "T"]),
    default="U",
    help="Rows of svcca and cka: the mean of each utterance (U), or every frame (T).",
)
@click.option(
    "--threshold",
    type=Number(),
    default=0.99,
    help="Share of the singular values that svcca keeps.",
)
@click.option(
    "--dc-mode",
    type=click.Choice(["mean", "seq"]),
    default="mean",
    help="What dc compares: the mean of each utterance, or all its frames (seq).",
)
@click.option(
    "--batch-size",
    type=whole_number(1),
    default=32,
    help="Number of utterances that dc compares together.",
)
@click.option(
    "--seed",
    default=0,
    type=SEED,
    help="Seed of the draw, and of the random data that floors come from.",
)
@click.option(
    "--out",
    type=_PATH,
    default=Path("similarity"),
    help="Folder that MEASURE.safetensors and MEASURE.png are written to.",
)
def similarity(
    checkpoint: Path,
    data: Path,
    subset: str,
    measures: tuple[str, ...],
    utterances: Optional[int],
    mode: str,
    threshold: float,
    dc_mode: str,
    batch_size: int,
    seed: int,
    out: Path,
) -> None:
    """Measure how alike the hidden states of CKPT are, a pretrained or finetuned model.

    For each measure OUT gets MEASURE.safetensors, an (L+1) by (L+1) matrix with where it came from,
    and MEASURE.png, a heat map. State i is the input of layer i. Of a text, each symbol is a frame.

    The floor is what the measure gives for independent random data of the same size: values near it
    mean nothing, and values at different sizes cannot be compared.
    """
    from speechprune.dropping.similarity import build_measures, draw, options_of, warnings
    from speechprune.dropping.similarity import similarity as measure_similarity

    rows = {"mode": mode, "threshold": threshold}
    options = options_of(measures, rows, {"mode": dc_mode, "batch_size": batch_size})
    built = build_measures(measures, options)
    check_folder(out)
    found = measure_similarity(checkpoint, data, subset, built, utterances=utterances, seed=seed)
    make_folder(out)
    for name, matrix in found.items():
        matrix.save(out / f"{name}.safetensors")
        draw(matrix, out / f"{name}.png")
        settings = ", ".join(f"{k} {v}" for k, v in matrix.provenance["settings"].items())
        click.echo(
            f"{out / name}.safetensors  {settings}; {matrix.provenance['count']} rows; "
            f"floor {matrix.floor:.4f}"
        )
    for line in warnings(found):
        click.echo(f"warning: {line}", err=True)


@command.command()
@click.argument("matrix", type=_PATH)
@_drop
@click.option(
    "--method",
    type=click.Choice(["greedy", "beam", "exhaustive", "random", "exact"]),
    default="exact",
    help="Way to search; exact finds the best plans of all, at any depth.",
)
@click.option(
    "--top",
    default=10,
    type=whole_number(1),
    help="Number of plans to print; greedy finds 1, beam up to 10.",
)
@click.option("--seed", default=0, type=SEED, help="Seed of the draw of --method random.")
@click.option("--out", type=_PATH, help="File of plans to write.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON rows instead of a table, best first."
)
def search(
    matrix: Path,
    drop: int,
    method: str,
    top: int,
    seed: int,
    out: Optional[Path],
    as_json: bool,
) -> None:
    """Rank sets of K layers to drop by a similarity MATRIX, ours or a bare .npy.

    Dropped layers fall into stretches of neighbouring layers. The score is the mean over stretches
    of the similarity of what goes into a stretch and what comes out; larger is better. Among equal
    scores, the plan that drops earlier layers comes first.
    """
    from speechprune.layers.file_search import search as search_plans

    _check_out(out, matrix)
    plans = search_plans(matrix, drop, method, top, seed)
    if out is not None:
        plans.save(out)
    rows = [plan.describe() for plan in plans.plans]
    if as_json:
        click.echo(json.dumps(rows))
        return
    lines = [["score", "drop"]]
    lines += [[f"{row['score']:.6f}", _layers(row["drop"])] for row in rows]
    click.echo("\n".join("  ".join(line) for line in lines))


def _evaluation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `verify` and `greedy` have in common."""
    for option in reversed(
        [
            click.option("--data", required=True, type=_PATH, help=_DATA),
            click.option("--subset", required=True, help="Name of a split for validation."),
            click.option("--allow-test", is_flag=True, help="Allow a subset whose name says test."),
            _by,
            _race,
            click.option(
                "--level",
                type=Number(),
                default=0.05,
                help="Significance level of the race's test.",
            ),
            click.option("--seed", default=0, type=SEED, help="Seed of the race."),
            click.option(
                "--max-tokens",
                type=whole_number(1),
                help="Most audio samples, or symbols of texts, in a batch, padding included; by "
                "default as `evaluate` has them.",
            ),
            click.option(
                "--batch-size", type=whole_number(1), help="Most utterances or texts in a batch."
            ),
            click.option("--out", type=_PATH, help="File of plans to write, best first."),
            click.option(
                "--json", "as_json", is_flag=True, help="Print one JSON object instead of a table."
            ),
        ]
    ):
        function = option(function)
    return function


@command.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.argument("plans", type=str)
@_evaluation_options
def verify(checkpoint: Path, plans: str, **options: Any) -> None:
    """Measure the error rate of each of PLANS on CKPT, a finetuned model, without training.

    PLANS is a file, or layers such as 1,3,5. The front end runs once for each utterance, and a
    layer once for all plans that keep the same layers before it; transcripts are the same as when
    each plan is evaluated by itself. A model of text is measured by the task's own metric.

    With --race, a plan is stopped once it is clearly worse than the best, by a paired test over
    batches that is repeated whenever their number has doubled. There are 64 batches or more then,
    if there are as many utterances: a base model hears padding, so its rates differ a little from
    those of larger batches.
    """
    from speechprune.dropping.search import VerificationSettings, verify_plans

    _check_out(options["out"], checkpoint, plans)
    settings = VerificationSettings(**_kept(options))
    report = verify_plans(checkpoint, lambda layers: read_plans(plans, layers), settings)
    _tell(report, options)


@command.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@_drop
@_evaluation_options
def greedy(checkpoint: Path, drop: int, **options: Any) -> None:
    """Drop K layers of CKPT, a finetuned model, one by one, by its error rate (GLP).

    Each step drops the layer without which the error rate is lowest. Work is shared between plans
    as `verify` does.
    """
    from speechprune.dropping.search import VerificationSettings, eliminate_layers

    _check_out(options["out"], checkpoint)
    report = eliminate_layers(checkpoint, drop, VerificationSettings(**_kept(options)))
    _tell(report, options)


@command.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.argument("plan", type=str)
@click.argument("out", type=_PATH)
def drop(checkpoint: Path, plan: str, out: Path) -> None:
    """Write CKPT without the layers of PLAN to OUT, which loads wherever CKPT does.

    PLAN is a file, whose first plan is used, or layers such as 1,3,5.
    """
    from speechprune.checkpoint.layers import depth
    from speechprune.rewriting.layer_dropping import drop_layers

    _check_out(out, checkpoint, plan)
    chosen = read_plans(plan, depth(checkpoint))
    drop_layers(checkpoint, chosen.plans[0].dropped, out, {"plan": dict(chosen.provenance)})
    kept = len(chosen.plans[0].kept)
    click.echo(f"{out}: {kept} of {chosen.plans[0].layers} layers")


@command.command()
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@_drop
@finetunes(
    train="Split to measure similarity on and to finetune on.",
    valid="Split to choose plans and checkpoints on.",
    updates="Number of updates of finetuning; by default as in the config.",
)
@click.option(
    "--measure",
    "measures",
    multiple=True,
    default=("svcca", "dc-unbiased"),
    show_default=True,
    help="Measure of similarity to find plans by; repeatable.",
)
@click.option(
    "--utterances",
    default=256,
    type=whole_number(1),
    help="Number of utterances to measure similarity on.",
)
@click.option(
    "--top",
    default=10,
    type=whole_number(1),
    help="Number of plans of each measure to verify.",
)
@_by
@_race
@click.option("--seed", default=0, type=SEED, help="Seed of everything that is drawn at random.")
def auto(checkpoint: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Find K layers of CKPT to drop, verify, drop, finetune, average and test.

    CKPT is a finetuned model. The best plans by each measure (svcca and cka of all frames, dc of
    batches of 32) are verified, the best of them is finetuned by the config with OVERRIDES, and OUT
    gets one report: report.md, .json and .png. If it is interrupted, the same command continues.
    """
    from speechprune.dropping.pipeline import pipeline

    report = pipeline(checkpoint, out, **options).run(lambda line: click.echo(line, err=True))
    click.echo((report / ("report.json" if as_json else "report.md")).read_text(encoding="utf-8"))


def _kept(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("out", "as_json")}


def _tell(report: Any, options: dict[str, Any]) -> None:
    # Printed first: what took long is not lost with a full disk.
    click.echo(json.dumps(report.describe()) if options["as_json"] else report.in_words())
    if options["out"] is not None:
        report.plans.save(options["out"])


def _check_out(out: Optional[Path], *sources: Union[Path, str]) -> None:
    """Refuse at once what could not be written in the end, or is one of the files to read."""
    if out is None:
        return
    refuse_to_replace(out, *sources)
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out} cannot be written: there is no folder {out.parent}")


def _layers(layers: list[int]) -> str:
    return ",".join(map(str, layers))
