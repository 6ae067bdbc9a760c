"""GLUE's official metrics, each with the counts that it is made of.

Source: Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
Understanding", ICLR 2019. Where a metric divides by zero it counts as 0, as in scikit-learn, and
says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np
from scipy.stats import pearsonr, spearmanr

from speechprune.decoding.accuracy import Accuracy
from speechprune.errors import UserError
from speechprune.manifests.glue.tasks import Metric, TextTask


@dataclass(frozen=True)
class MeasuredMetric:
    """The value of a metric.

    Attributes:
        name: of the metric.
        value: from 0 to 1 for accuracy and F1, and from -1 to 1 for correlations.
        counts: of examples, by what they are.
        interval: the 95 % confidence interval, where there is one.
        undefined: why the metric is not defined and counts as 0; empty where it is defined.
    """

    name: Metric
    value: float
    counts: dict[str, int]
    interval: tuple[float, float] | None = None
    undefined: str = ""


def measure(
    task: TextTask,
    predictions: Union[Sequence[float], np.ndarray],
    targets: Union[Sequence[float], np.ndarray],
) -> list[MeasuredMetric]:
    """The official metrics of a task, in their order.

    Args:
        predictions: what a model says of N examples: numbers of classes, in the task's order, or
            scores of any scale.
        targets: what is right.

    Raises:
        UserError: there is no example, or a score is NaN or infinite.
        ValueError: there are not as many targets, or a number stands for no class.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} examples")
    if not len(targets):
        raise UserError(f"there is no example of {task.name} to measure")
    if task.has_scores:
        return [
            _correlation(metric, _scores(predictions), _scores(targets)) for metric in task.metrics
        ]
    confusion = confusion_of(len(task.classes), predictions, targets)
    return [_of_classes(metric, task, confusion) for metric in task.metrics]


def confusion_of(
    classes: int,
    predictions: Union[Sequence[float], np.ndarray],
    targets: Union[Sequence[float], np.ndarray],
) -> np.ndarray:
    """Examples by their class and the one that a model says, int64 (classes, classes).

    Raises ValueError if a number stands for no class.
    """
    rows, columns = (np.asarray(each, dtype=np.int64) for each in (targets, predictions))
    if len(rows) and not (
        0 <= min(rows.min(), columns.min()) <= max(rows.max(), columns.max()) < classes
    ):
        raise ValueError(f"classes are numbered from 0 to {classes - 1}")
    counts = np.bincount(rows * classes + columns, minlength=classes**2)
    return counts.reshape(classes, classes)


def _of_classes(metric: Metric, task: TextTask, confusion: np.ndarray) -> MeasuredMetric:
    if metric == "accuracy":
        accuracy = Accuracy(int(confusion.trace()), int(confusion.sum()))
        counts = {"right": accuracy.correct, "examples": accuracy.utterances}
        return MeasuredMetric(metric, accuracy.rate, counts, accuracy.interval)
    positive = task.classes.index(task.positive) if task.positive is not None else 1
    counts = _four_counts(confusion, positive)
    if metric == "f1":
        return _f1(counts, task.classes[positive])
    if metric == "matthews" and len(task.classes) == 2:
        return _matthews(counts)
    raise ValueError(f"{metric} does not measure {len(task.classes)} classes")


def _four_counts(confusion: np.ndarray, positive: int) -> dict[str, int]:
    """True and false positives and negatives, the positive class against all others."""
    both = int(confusion[positive, positive])
    predicted, there = int(confusion[:, positive].sum()), int(confusion[positive].sum())
    return {
        "true positives": both,
        "false positives": predicted - both,
        "false negatives": there - both,
        "true negatives": int(confusion.sum()) - predicted - there + both,
    }


def _f1(counts: dict[str, int], positive: str) -> MeasuredMetric:
    """The harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
    true_positives, false_positives, false_negatives, _ = counts.values()
    total = 2 * true_positives + false_positives + false_negatives
    reason = "" if total else f"no example is of class {positive}, or is taken for one"
    return MeasuredMetric(
        "f1", 2 * true_positives / total if total else 0.0, counts, undefined=reason
    )


def _matthews(counts: dict[str, int]) -> MeasuredMetric:
    """The correlation of two binary variables.

    Source: Matthews, "Comparison of the predicted and observed secondary structure of T4 phage
    lysozyme", Biochimica et Biophysica Acta 405, 1975.
    """
    tp, fp, fn, tn = counts.values()
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)  # of whole numbers: exact
    if not product:
        whose = "all examples are" if not (tp + fn) * (tn + fp) else "all predictions are"
        return MeasuredMetric("matthews", 0.0, counts, undefined=f"{whose} of one class")
    return MeasuredMetric("matthews", (tp * tn - fp * fn) / math.sqrt(product), counts)


def _scores(values: Union[Sequence[float], np.ndarray]) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise UserError(
            f"the score of example {wrong[0]} is {scores[wrong[0]]}; nothing is measured"
        )
    return scores


def _correlation(metric: Metric, predictions: np.ndarray, targets: np.ndarray) -> MeasuredMetric:
    counts = {"examples": len(targets)}
    if len(targets) < 2:
        return MeasuredMetric(metric, 0.0, counts, undefined="there is one example only")
    for values, whose in ((targets, "all examples have"), (predictions, "all predictions have")):
        if values.min() == values.max():
            return MeasuredMetric(metric, 0.0, counts, undefined=f"{whose} one score")
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is seen below
        found = {"pearson": pearsonr, "spearman": spearmanr}[metric](predictions, targets)
    value = float(found.statistic)
    if math.isnan(value):
        return MeasuredMetric(metric, 0.0, counts, undefined="double precision cannot hold it")
    return MeasuredMetric(metric, value, counts)
