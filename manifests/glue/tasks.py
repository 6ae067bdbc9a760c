"""The eight tasks of GLUE that are trained on: their tables, classes and official metrics.

Source: Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
Understanding", ICLR 2019; the tables are those that its script `download_glue_data.py` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from speechprune.errors import UserError
from speechprune.manifests.dictionary import SPECIAL_SYMBOLS

#: fairseq's task for all of them.
SENTENCES = "sentence_prediction"

#: A measure of how well a task is done; see `speechprune.decoding.text_metrics`.
Metric = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]

#: Tables by the split that they become.
_ONE_OF_EACH = MappingProxyType({"train": "train", "valid": "dev", "test": "test"})
_MATCHED = MappingProxyType(
    {
        "train": "train",
        "valid": "dev_matched",
        "valid1": "dev_mismatched",
        "test": "test_matched",
        "test1": "test_mismatched",
    }
)
#: What fairseq's dictionaries of classes have beside the classes.
_RESERVED = (*SPECIAL_SYMBOLS, "<mask>")


@dataclass(frozen=True)
class TextTask:
    """What is told of a sentence, or of a pair of them.

    Attributes:
        inputs: names of the columns with the sentences, one or two.
        label: name of the column with the class or score.
        classes: in the order of a model's outputs; empty where a score is asked for.
        metrics: the official ones, in order.
        positive: the class whose F1 is measured, if any.
        scale: what scores are divided by.
        bounds: the least and the greatest score, if they are known.
        headless: names of the columns of train and dev, where those have no line of names.
        tables: names of the tables, without `.tsv`, by split.
    """

    name: str
    inputs: tuple[str, ...]
    label: str = "label"
    classes: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ("accuracy",)
    positive: str | None = None
    scale: float = 1.0
    bounds: tuple[float, float] | None = None
    headless: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=lambda: _ONE_OF_EACH)

    @property
    def has_scores(self) -> bool:
        """Whether a score is asked for, and not a class."""
        return not self.classes

    @property
    def error(self) -> str:
        """What is compared where others have error rates, as it is called: 1 less the first
        metric."""
        return f"1 - {self.metrics[0]}"

    def with_classes(self, classes: Sequence[str]) -> TextTask:
        """The task with its classes in another order.

        Raises UserError if the task has scores, or other classes than these.
        """
        if self.has_scores:
            raise UserError(f"{self.name} has scores, not classes")
        if sorted(classes) != sorted(self.classes):
            raise UserError(
                f"{self.name} has the classes {', '.join(self.classes)}, not {', '.join(classes)}"
            )
        return replace(self, classes=tuple(classes))

    def with_scale(self, scale: float) -> TextTask:
        """The task with scores divided by another number; raises UserError if it has none."""
        if not self.has_scores:
            raise UserError(f"{self.name} has classes, not scores; leave out --scale")
        return replace(self, scale=scale)


_PAIR = ("sentence1", "sentence2")
_ENTAILED = ("entailment", "not_entailment")
_BINARY = ("0", "1")

#: Classes are sorted, so that the output 1 is the positive class, whose F1 fairseq's criterion
#: reports. Those of MNLI are in the order of the published `roberta.large.mnli`.
TASKS: Mapping[str, TextTask] = MappingProxyType(
    {
        task.name: task
        for task in (
            TextTask(
                "CoLA",
                ("sentence",),
                classes=_BINARY,
                metrics=("matthews",),
                headless=("source", "label", "original_label", "sentence"),
            ),
            TextTask(
                "MNLI",
                _PAIR,
                "gold_label",
                classes=("contradiction", "neutral", "entailment"),
                tables=_MATCHED,
            ),
            TextTask(
                "MRPC",
                ("#1 String", "#2 String"),
                "Quality",
                classes=_BINARY,
                metrics=("f1", "accuracy"),
                positive="1",
            ),
            TextTask("QNLI", ("question", "sentence"), classes=_ENTAILED),
            TextTask(
                "QQP",
                ("question1", "question2"),
                "is_duplicate",
                classes=_BINARY,
                metrics=("f1", "accuracy"),
                positive="1",
            ),
            TextTask("RTE", _PAIR, classes=_ENTAILED),
            TextTask("SST-2", ("sentence",), classes=_BINARY),
            TextTask(
                "STS-B",
                _PAIR,
                "score",
                metrics=("pearson", "spearman"),
                scale=5.0,
                bounds=(0.0, 5.0),
            ),
        )
    }
)


def check_task_name(name: str) -> None:
    """Raise UserError for a name that is nearly that of one of `TASKS`, or cannot be a folder's."""
    plain = _plain(name)
    nearest = [known for known in TASKS if _plain(known) == plain]
    if nearest and name not in TASKS:
        raise UserError(f"unknown task {name!r}; did you mean {nearest[0]!r}?")
    if not plain or "/" in name:
        raise UserError(f"{name!r} cannot be the name of a task; use letters and digits")


def task_of_header(name: str, header: Sequence[str], classes: Sequence[str]) -> TextTask:
    """A task of one's own, by the names of its table's columns.

    Args:
        header: `sentence`, or `sentence1` and `sentence2`; and `label` or `score`.
        classes: what the column `label` of train holds, if there is such a column.

    Raises:
        UserError: other columns, or classes that fairseq's dictionaries cannot hold.
    """
    inputs = _PAIR if all(column in header for column in _PAIR) else ("sentence",)
    labels = [column for column in ("label", "score") if column in header]
    if not set(inputs) <= set(header) or len(labels) != 1:
        raise UserError(
            f"the table of {name} has the columns {', '.join(header)}; give it sentence, or "
            f"sentence1 and sentence2, and label or score, or choose one of {', '.join(TASKS)}"
        )
    if labels == ["score"]:
        return TextTask(name, inputs, "score", metrics=("pearson", "spearman"))
    found = tuple(sorted(set(classes)))
    for label in found:
        if not label or label.split() != [label] or label in _RESERVED:
            raise UserError(f"{label!r} cannot be a class of {name}; use a word without blanks")
    if len(found) < 2:
        raise UserError(f"the training set of {name} has {len(found)} class(es); it needs two")
    return TextTask(name, inputs, classes=found)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()
