"""What benchmarks share: where they run, and tables that are printed as they are measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from unittest.mock import patch

import click

from speechprune.files import write_atomically

# torch is imported where it is needed: some benchmarks measure what goes without it.

RESULTS = Path(__file__).parent / "results"
DEVICES = ("cpu", "cuda")
#: By device: fairseq's fp16 needs a GPU.
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16")}

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _present(context: click.Context, option: click.Parameter, value: str | None) -> str:
    import torch

    has_gpu = torch.cuda.is_available()
    if value == "cuda" and not has_gpu:
        raise click.UsageError("there is no GPU for --device cuda")
    return value or ("cuda" if has_gpu else "cpu")


#: Adds ``device``: "cpu" or "cuda".
device_option = click.option(
    "--device",
    type=click.Choice(DEVICES),
    callback=_present,
    is_eager=True,
    help="Where models run; a GPU by default, if there is one.",
)


def _refuse_precisions(device: str, precisions: Iterable[str]) -> None:
    for precision in precisions:
        if precision not in PRECISIONS[device]:
            raise click.UsageError(f"--precision {precision} needs a GPU; a CPU has fp32 and bf16")


def _trainable(context: click.Context, option: click.Parameter, value: str) -> str:
    _refuse_precisions(context.params["device"], [value])
    return value


#: Adds ``precision``, of training; it goes with `device_option`.
precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS["cuda"]),
    default="fp32",
    show_default=True,
    callback=_trainable,
    help="Number format that models are trained in.",
)


def precisions_option(on_gpu: Sequence[str]) -> Callable[[_Command], _Command]:
    """Adds ``precisions``, one or several number formats; it goes with `device_option`.

    Args:
        on_gpu: those on a GPU by default; on a CPU it is fp32.
    """

    def chosen(
        context: click.Context, option: click.Parameter, value: tuple[str, ...]
    ) -> tuple[str, ...]:
        device = context.params["device"]
        _refuse_precisions(device, value)
        return value or (tuple(on_gpu) if device == "cuda" else ("fp32",))

    return click.option(
        "--precision",
        "precisions",
        type=click.Choice(PRECISIONS["cuda"]),
        multiple=True,
        callback=chosen,
        help="Number format, one or several; fp32 by default, on a GPU " + ", ".join(on_gpu) + ".",
    )


def training_overrides(device: str, precision: str) -> tuple[str, ...]:
    """What `speechprune train` has to be told to train there."""
    values = {"cpu": device == "cpu", "fp16": precision == "fp16", "bf16": precision == "bf16"}
    return tuple(f"common.{key}={str(value).lower()}" for key, value in values.items())


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Let the library run models there: by itself it takes a GPU if it sees one."""
    import torch

    seen = device == "cuda" and torch.cuda.is_available()
    with patch.object(torch.cuda, "is_available", lambda: seen):
        yield


def machine(device: str = "cpu") -> str:
    """What a table was measured on, in words."""
    import torch

    card = f"{torch.cuda.get_device_name()}; " if device == "cuda" else ""
    return (
        f"{card}{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; load before {os.getloadavg()[0]:.1f}"
    )


class Rows:
    """A table of which each row is told once it is measured.

    Args:
        tell: prints a line.
        heads: of the columns, which are as wide as these or as ``widths``.
        left: how many columns are flush left.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        heads: Sequence[str],
        widths: Sequence[int] = (),
        left: int = 1,
    ) -> None:
        given = [*widths, *[0] * (len(heads) - len(widths))]
        self._widths = [max(len(head), width) for head, width in zip(heads, given)]
        self._tell, self._left = tell, left
        self.add(*heads)

    def add(self, *cells: str) -> None:
        """Tell the next row."""
        padded = [
            cell.ljust(width) if column < self._left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, self._widths))
        ]
        self._tell("  ".join(padded).rstrip())


class Report:
    """What a benchmark tells, printed at once and kept to be written."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, line: str = "") -> None:
        click.echo(line)
        self.lines.append(line)

    def table(self, heads: Sequence[str], widths: Sequence[int] = (), left: int = 1) -> Rows:
        """A table that begins here."""
        return Rows(self.tell, heads, widths, left)

    def save(self, path: Path) -> None:
        write_atomically(path, ("\n".join(self.lines) + "\n").encode())


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return median(values), min(values), max(values)


def in_words(seconds: float) -> str:
    """A time with its unit: "3.1 ms", "12.0 s"."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.1f} s"
