"""What a folder for fairseq's task `sentence_prediction` says of its task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.dictionary import read_dictionary
from speechprune.manifests.glue.tasks import TASKS, TextTask
from speechprune.manifests.provenance import PROVENANCE, read_provenance
from speechprune.registry import unknown_name

#: What the provenance of each such folder names its corpus.
CORPUS = "text in GLUE's layout"

_FILLER = "madeupword"


def described_task(task: TextTask) -> dict[str, Any]:
    """What a provenance says about a task; `task_of_folder` reads it."""
    return {
        "name": task.name,
        "inputs": list(task.inputs),
        "label": task.label,
        "classes": list(task.classes),
        "metrics": list(task.metrics),
        "positive": task.positive,
        "scale": task.scale,
    }


def task_of_folder(folder: Path, name: str | None = None) -> TextTask:
    """The task of a prepared folder, with its classes in the order of a model's outputs.

    Args:
        name: one of `TASKS`, for a folder that fairseq's own script made, which does not say it;
            without a name, classes are measured by accuracy there, and scores by correlations.

    Raises:
        UserError: the folder is not for `sentence_prediction`, has the task of another name or
            other classes, or its provenance is damaged.
    """
    if not (folder / "input0" / "dict.txt").is_file():
        raise UserError(
            f"{folder} has no input0/dict.txt; name a folder that `prepare glue` has written"
        )
    described = read_provenance(folder).get("task")
    if described is not None:
        task = _described(folder, described)
        if name not in (None, task.name):
            raise UserError(f"{folder} holds the task {task.name!r}, not {name!r}")
        return task
    return _of_fairseq(folder, name)


def _described(folder: Path, described: Mapping[str, Any]) -> TextTask:
    try:
        return TextTask(
            described["name"],
            tuple(described["inputs"]),
            described["label"],
            classes=tuple(described["classes"]),
            metrics=tuple(described["metrics"]),
            positive=described["positive"],
            scale=float(described["scale"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / PROVENANCE} does not describe a task of sentences; prepare the folder again"
        ) from error


def _of_fairseq(folder: Path, name: str | None) -> TextTask:
    if name is not None and name not in TASKS:
        raise UserError(unknown_name("task", name, list(TASKS)))
    inputs = ("sentence1", "sentence2") if (folder / "input1").is_dir() else ("sentence",)
    dictionary = folder / "label" / "dict.txt"
    if not dictionary.exists():
        own = TextTask("scores", inputs, "score", metrics=("pearson", "spearman"))
        classes: tuple[str, ...] = ()
    else:
        found = read_dictionary(dictionary)[0]
        classes = tuple(symbol for symbol in found if not symbol.startswith(_FILLER))
        own = TextTask("classes", inputs, classes=classes)
    if name is None:
        return own
    task = TASKS[name]
    if task.has_scores == own.has_scores:
        return task if task.has_scores else task.with_classes(classes)
    raise UserError(f"{folder} holds {own.name}, which {name} has not; name another task")
