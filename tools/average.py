"""`speechprune average`: the mean of the best or last checkpoints of a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speechprune.tools._options import whole_number

if TYPE_CHECKING:
    from speechprune.rewriting.averaging import Average

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=_PATH)
@click.argument("out", required=False, type=_PATH)
@click.option(
    "--num",
    default=10,
    show_default=True,
    type=whole_number(1),
    help="Number of checkpoints to average; all of them, if there are fewer.",
)
@click.option(
    "--by",
    type=click.Choice(["valid", "last"]),
    default="valid",
    show_default=True,
    help="Which checkpoints count: the best by checkpoint.best_checkpoint_metric, or the last.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: Path, out: Path | None, num: int, by: str, as_json: bool) -> None:
    """Average checkpoints of RUN, a folder with `checkpoints` in it, and write OUT.

    OUT is RUN/checkpoints/checkpoint_average.pt by default, and has no optimizer state. Files of
    the same update count once. Where masks differ, they are chosen anew from the averaged scores or
    weights, as dense as in the newest checkpoint.

    Our configs keep few checkpoints: train with checkpoint.keep_interval_updates=-1, which keeps
    all that are saved, or, for --by last, 10. With keep_best_checkpoints=10 fairseq does not keep
    the ten best: it takes no checkpoint that is worse than those it has, even if they are fewer.
    """
    from speechprune.rewriting.averaging import average

    found = average(run, out, num=num, by=by)
    click.echo(json.dumps(report(run, found), indent=2) if as_json else table(found))


def report(run: Path, found: Average) -> dict[str, Any]:
    """What was averaged, under the names that `--json` prints."""
    return {
        "run": str(run),
        "out": str(found.out),
        "by": found.by,
        "asked": found.asked,
        "averaged": [checkpoint.describe() for checkpoint in found.averaged],
        "of_other_density": found.of_other_density,
        "unvalidated": found.unvalidated,
        "masks_chosen_anew": found.masks_chosen_anew,
    }


def table(found: Average) -> str:
    """What was averaged, as lines to read."""
    width = max(len(checkpoint.path.name) for checkpoint in found.averaged)
    lines = []
    for checkpoint in found.averaged:
        value = "not validated" if checkpoint.valid is None else f"validation {checkpoint.valid:g}"
        lines.append(f"{checkpoint.path.name:<{width}}  {checkpoint.updates:>7} updates  {value}")
    count = len(found.averaged)
    lines.append(f"{found.out}: the mean of {count} checkpoint{'s' if count > 1 else ''}")
    if found.masks_chosen_anew:
        lines.append("note: their masks differ, and were chosen anew from the mean")
    if found.of_other_density:
        lines.append(f"note: {found.of_other_density} of another density left out")
    if count < found.asked:
        lines.append(_note(count, found))
    return "\n".join(lines)


def _note(count: int, found: Average) -> str:
    """Says that there were fewer checkpoints than asked for, and why, if validation is why."""
    note = f"note: {found.asked} were asked for, and {count} found"
    if not found.unvalidated:
        return note
    return f"{note} with a validation value; {found.unvalidated} without one left out (--by last)"
