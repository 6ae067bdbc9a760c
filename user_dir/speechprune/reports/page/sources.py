"""What a page is about: runs, reports and files that its arguments name, or that lie in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from speechprune.checksums import read_json
from speechprune.errors import UserError
from speechprune.files import kind_of
from speechprune.reports.masks import short_names
from speechprune.reports.runs import checkpoint_path
from speechprune.training.log import NAMES
from speechprune.training.run import SETTINGS
from speechprune.training.workflow import JSON

#: How deep runs are looked for in a folder that is none itself.
_DEPTH = 4
#: How the names of reports end, which their folders tell apart.
_REPORT = f"/{Path(JSON).stem}"


class Kind(Enum):
    """What there is to read at a path."""

    RUN = "a training run"
    CHECKPOINT = "a checkpoint"
    SAFETENSORS = "masks, a bank or a similarity matrix"
    MATRIX = "a similarity matrix"
    PLANS = "layer plans"
    EVALUATION = "an evaluation"
    BENCHMARK = "a benchmark"
    LAYERS = "a report of dropping layers"
    SLIMMING = "a report of slimming"


@dataclass(frozen=True)
class Source:
    """Something that can be read.

    Attributes:
        kind: what it is.
        path: a run's folder, or a file.
        name: short, and unlike that of other sources.
    """

    kind: Kind
    path: Path
    name: str


def find_sources(arguments: Sequence[Path], which: str) -> list[Source]:
    """What the arguments are, or hold, in their order; folders by name.

    Args:
        which: "last" or "best", the checkpoint of a run that counts.

    Raises:
        UserError: an argument does not exist, is given twice, or holds nothing to report on.
    """
    found: dict[Path, tuple[Kind, Path]] = {}
    given: set[Path] = set()
    for argument in arguments:
        if argument.resolve() in given:
            raise UserError(f"{argument} is given twice; give each once")
        given.add(argument.resolve())
        within = list(_within(argument))
        if not within:
            raise UserError(
                f"{argument} holds nothing to report on: no training run, report, or file of "
                "masks, layers or an evaluation"
            )
        for kind, path in within:
            found.setdefault(path.resolve(), (kind, path))
    # A run is called by its folder, as is the checkpoint in it, and a report likewise.
    named = [
        checkpoint_path(path, which) if kind is Kind.RUN else path for kind, path in found.values()
    ]
    names = short_names(named)
    without = [name[: -len(_REPORT)] if name.endswith(_REPORT) else name for name in names]
    names = without if len(set(without)) == len(names) else names
    return [Source(kind, path, name) for (kind, path), name in zip(found.values(), names)]


def _within(path: Path) -> Iterator[tuple[Kind, Path]]:
    if not path.exists():
        raise UserError(f"{path} does not exist; name training runs, reports or files")
    if path.is_dir():
        yield from _in_folder(path, _DEPTH)
    else:
        yield _of_file(path), path


def _in_folder(folder: Path, depth: int) -> Iterator[tuple[Kind, Path]]:
    """A run; or a report, what it tells of, and runs below it; or runs and reports below."""
    if is_run(folder):
        yield Kind.RUN, folder
        return
    report = folder / JSON
    if report.is_file():
        kind = _of_report(read_json(report, "restore or remove it"))
        if kind is not None:
            yield kind, report
        if kind is Kind.LAYERS:
            yield from ((Kind.SAFETENSORS, path) for path in sorted(folder.glob("*.safetensors")))
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and depth)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error
    for each in below:
        if not each.name.startswith(".") and not each.is_symlink():
            yield from _in_folder(each, depth - 1)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run, begun or finished."""
    return (folder / "checkpoints").is_dir() or any(
        (folder / name).is_file() for name in (SETTINGS, *NAMES)
    )


def _of_file(path: Path) -> Kind:
    """What a file is; raises UserError if there is nothing to say of it."""
    with_numpy = path.suffix == ".npy"
    kinds = {"checkpoint": Kind.CHECKPOINT, "safetensors": Kind.SAFETENSORS}
    content = kind_of(path)
    if with_numpy or content in kinds:
        return Kind.MATRIX if with_numpy else kinds[content]
    kind = None
    if content == "JSON":
        found = read_json(path, "restore it")
        kind = _of_report(found) or _of_json(found)
    if kind is None:
        raise UserError(
            f"{path} is none of what a page can tell of: a training run, a checkpoint, masks, a "
            "similarity matrix, layer plans, a bank, report.json, or what `evaluate --json` or "
            "`benchmark --json` prints"
        )
    return kind


def _of_report(found: dict[str, Any]) -> Kind | None:
    if not isinstance(found.get("evaluations"), dict):
        return None
    if "kept" in found and "costs" in found:
        return Kind.SLIMMING
    return Kind.LAYERS if "verified" in found else None


def _of_json(found: dict[str, Any]) -> Kind | None:
    if isinstance(found.get("plans"), list):
        return Kind.PLANS
    if isinstance(found.get("models"), list) and "repeats" in found:
        return Kind.BENCHMARK
    if not {"parameters", "density", "data", "subset"} <= found.keys():
        return None
    return Kind.EVALUATION if {"wer", "accuracy", "metrics"} & found.keys() else None
