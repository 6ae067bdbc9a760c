"""What was measured of models, to be read by people and by programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechprune.figures import bar_panels
from speechprune.tables import table

if TYPE_CHECKING:
    from speechprune.benchmarking.measuring import Measured

_MEGABYTE = 1e6
_HEADS = (
    *("model", "latency", "real-time factor", "audio s/s", "faster", "memory MB"),
    *("size MB", "of its bytes", "parameters", "multiply-adds"),
)


def describe(found: Sequence[Measured], conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The measurements under the names of `Measured`, with seconds and bytes.

    Args:
        conditions: that are those of all, by their names.
    """
    return {**conditions, "models": [{**asdict(each), "path": str(each.path)} for each in found]}


def in_words(found: Sequence[Measured]) -> str:
    """A table; how much faster a model is, and its share of bytes, are those beside the first."""
    first = found[0]
    rows = [
        (
            name,
            f"{1e3 * each.latency:.1f} ms",
            f"{each.real_time_factor:.4f}",
            f"{each.throughput:.1f}",
            f"{first.latency / each.latency:.2f} x",
            f"{each.peak / _MEGABYTE:.0f}",
            f"{each.size / _MEGABYTE:.1f}",
            f"{100 * each.size / first.size:.1f} %",
            f"{each.parameters / 1e6:.2f} M",
            f"{each.multiply_adds / 1e9:.2f} G",
        )
        for name, each in zip(_names(found), found)
    ]
    return table([_HEADS, *rows])


def conditions_in_words(conditions: Mapping[str, Any]) -> str:
    """What was heard, and how it was measured.

    Args:
        conditions: ``data`` and ``subset``, or ``seconds`` of noise; ``batch``, ``threads`` and
            ``repeats``.
    """
    heard = (
        f"{conditions['subset']} of {conditions['data']}"
        if "data" in conditions
        else f"{conditions['seconds']:g} s of noise"
    )
    batches = f" and in batches of {conditions['batch']}" if conditions["batch"] > 1 else ""
    return (
        f"{heard}; alone{batches}, {conditions['threads']} threads, median of "
        f"{conditions['repeats']} rounds"
    )


def draw(found: Sequence[Measured], path: Path, conditions: Mapping[str, Any]) -> None:
    """Draw latency, memory and size as bars.

    Args:
        conditions: see `conditions_in_words`.

    Raises UserError as `save_figure`.
    """
    panels = {
        "latency [ms]": [1e3 * each.latency for each in found],
        "peak memory [MB]": [each.peak / _MEGABYTE for each in found],
        "size on disk [MB]": [each.size / _MEGABYTE for each in found],
    }
    bar_panels(_names(found), panels, path, conditions_in_words(conditions))


def _names(found: Sequence[Measured]) -> list[str]:
    """The names of files, with as much of their folders as tells them apart."""
    paths = [each.path for each in found]
    for count in range(1, 1 + max(len(path.parts) for path in paths)):
        names = [str(Path(*path.parts[-count:])) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names
