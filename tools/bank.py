"""`speechprune bank`: many languages and tasks on one model, in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

import click

from speechprune.tools._options import Number

_PATH = click.Path(path_type=Path)


@click.group("bank")
def command() -> None:
    """Keep the masks and heads of many tasks beside the weights of one model."""


@command.command()
@click.argument("base", type=_PATH)
@click.argument("bank", type=_PATH)
def create(base: Path, bank: Path) -> None:
    """Write BANK, a file with the weights of BASE and no tasks yet.

    BASE is the pretrained model that all tasks were trained on.
    """
    from speechprune.reports.bank import BankReport
    from speechprune.rewriting.banking import create

    report = BankReport.of(create(base, bank))
    click.echo(f"{bank}: {report.base_bytes:,} bytes of shared weights, no tasks yet")


@command.command()
@click.argument("bank", type=_PATH)
@click.argument("name")
@click.argument("checkpoint", metavar="CKPT", type=_PATH)
@click.option(
    "--data",
    type=_PATH,
    help="Folder of manifests to measure the error rate on, which is noted in the bank.",
)
@click.option("--subset", help="Name of the manifest to measure it on, such as test-clean.")
@click.option(
    "--error-rate",
    type=Number(0),
    help="Error rate to note, in percent, that was measured elsewhere.",
)
def add(
    bank: Path,
    name: str,
    checkpoint: Path,
    data: Optional[Path],
    subset: Optional[str],
    error_rate: Optional[float],
) -> None:
    """Add CKPT, a finetuned model with masks on the weights of BANK, as the task NAME.

    Its masks are kept, its head, and all else that was trained beside the masks. Models whose
    weights were trained, as PARP and slimming do, are refused: a bank keeps weights once.

    The error rate that `bank list` shows is measured on --data and --subset, or the one given, or
    else that of the last validation in training.
    """
    from speechprune.rewriting.banking import add

    if (data is None) != (subset is None):
        raise click.UsageError("--data and --subset go together.")
    if data is not None and error_rate is not None:
        raise click.UsageError("--error-rate is for what is not measured on --data.")
    on = None if data is None or subset is None else (data, subset)
    sizes = add(bank, name, checkpoint, percent=error_rate, on=on).sizes(name)
    click.echo(f"{bank}: {name} with {sizes.masks:,} bytes of masks and {sizes.own:,} of its own")


@command.command("list")
@click.argument("bank", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_tasks(bank: Path, as_json: bool) -> None:
    """Show the tasks in BANK with what they take, and what the whole saves.

    Entropy is what masks of these densities take at the least when their entries are independent.
    Masks that are stored beside another task's, as what differs from them, may take less.
    """
    from speechprune.bank.bank import Bank
    from speechprune.reports.bank import BankReport

    report = BankReport.of(Bank(bank))
    click.echo(json.dumps(report.describe(), indent=2) if as_json else report.describe_in_words())


@command.command()
@click.argument("bank", type=_PATH)
@click.argument("name")
def remove(bank: Path, name: str) -> None:
    """Remove the task NAME from BANK."""
    from speechprune.bank.bank import remove_task

    left = len(remove_task(bank, name).names)
    click.echo(f"{bank}: without {name}; {left} task{'s' if left != 1 else ''} left")


@command.command()
@click.argument("bank", type=_PATH)
@click.argument("name")
@click.argument("out", type=_PATH)
def extract(bank: Path, name: str, out: Path) -> None:
    """Write the task NAME of BANK to OUT, as a checkpoint like the one that was added.

    Its outputs are the same to the last bit. OUT has no scores: to finetune it further with these
    masks, leave model.fix_mask=true.
    """
    from speechprune.rewriting.banking import extract

    extract(bank, name, out)
    click.echo(f"{out}: the task {name}")
