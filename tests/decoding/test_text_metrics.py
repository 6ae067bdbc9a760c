"""GLUE's metrics: scikit-learn's and scipy's values, and something said wherever those give NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from speechprune.decoding.accuracy import Accuracy
from speechprune.decoding.sentences import predictions as predictions_of
from speechprune.decoding.text_metrics import MeasuredMetric, confusion_of, measure
from speechprune.errors import UserError
from speechprune.manifests.glue.tasks import TASKS, TextTask


def only(task: str, predictions: object, targets: object, name: str) -> MeasuredMetric:
    found = {m.name: m for m in measure(TASKS[task], predictions, targets)}  # type: ignore
    return found[name]  # type: ignore[index]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [2, 7, 400])
def test_metrics_of_classes_are_scikit_learns(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    targets, predictions = random.integers(0, 2, (2, size)) * random.integers(0, 2, (2, size))
    targets[0], predictions[0] = 1, 1
    expected = {
        "f1": metrics.f1_score(targets, predictions),
        "accuracy": metrics.accuracy_score(targets, predictions),
    }
    found = measure(TASKS["MRPC"], predictions, targets)
    assert [m.name for m in found] == ["f1", "accuracy"]
    assert {m.name: m.value for m in found} == pytest.approx(expected)
    matthews = only("CoLA", predictions, targets, "matthews")
    assert matthews.value == pytest.approx(metrics.matthews_corrcoef(targets, predictions))
    tn, fp, fn, tp = metrics.confusion_matrix(targets, predictions, labels=[0, 1]).ravel()
    assert list(matthews.counts.values()) == [tp, fp, fn, tn]


def test_f1_is_of_the_positive_class_whatever_its_number() -> None:
    targets, predictions = [1, 1, 1, 0, 0], [1, 1, 0, 0, 1]
    usual = measure(TASKS["QQP"], predictions, targets)
    swapped = TASKS["QQP"].with_classes(("1", "0"))
    turned = measure(swapped, [1 - p for p in predictions], [1 - t for t in targets])
    assert usual == turned
    assert usual[0].value == pytest.approx(4 / 6)
    assert usual[0].counts == {
        "true positives": 2,
        "false positives": 1,
        "false negatives": 1,
        "true negatives": 1,
    }


def test_accuracy_has_counts_and_wilsons_interval() -> None:
    (found,) = measure(TASKS["MNLI"], [0, 1, 2, 2, 1], [0, 1, 2, 1, 1])
    assert found.value == 0.8 and found.counts == {"right": 4, "examples": 5}
    assert found.interval == Accuracy(4, 5).interval


@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_scipys_with_ties(seed: int) -> None:
    random = np.random.default_rng(seed)
    targets = random.integers(0, 6, 50) / 5
    predictions = np.round(targets + random.normal(size=50), 1)
    pearson, spearman = measure(TASKS["STS-B"], predictions, targets)
    assert pearson.value == pytest.approx(np.corrcoef(predictions, targets)[0, 1])
    ranks = stats.rankdata(predictions), stats.rankdata(targets)
    assert spearman.value == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert pearson.counts == spearman.counts == {"examples": 50}
    # Whatever scores were divided by.
    assert measure(TASKS["STS-B"], 5 * predictions, 3 * targets)[0].value == pytest.approx(
        pearson.value
    )


@pytest.mark.parametrize(
    "task, predictions, targets, name, reason",
    [
        ("MRPC", [0, 0], [0, 0], "f1", "no example is of class 1, or is taken for one"),
        ("CoLA", [1, 0, 1], [1, 1, 1], "matthews", "all examples are of one class"),
        ("CoLA", [0, 0, 0], [1, 0, 1], "matthews", "all predictions are of one class"),
        ("CoLA", [1], [1], "matthews", "all examples are of one class"),
        ("STS-B", [0.3], [0.5], "pearson", "there is one example only"),
        ("STS-B", [0.3], [0.5], "spearman", "there is one example only"),
        ("STS-B", [0.3, 0.3], [0.5, 0.1], "pearson", "all predictions have one score"),
        ("STS-B", [0.3, 0.2], [0.5, 0.5], "spearman", "all examples have one score"),
        ("STS-B", [1e308, 1e308, 0], [1, 0, 1], "pearson", "double precision cannot hold it"),
    ],
)
def test_what_is_not_defined_counts_as_0_and_says_so(
    task: str, predictions: list[float], targets: list[float], name: str, reason: str
) -> None:
    found = only(task, predictions, targets, name)
    assert found.value == 0.0 and found.undefined == reason


def test_nothing_is_said_of_what_is_defined() -> None:
    # 0 of itself: no positive example is found.
    assert only("MRPC", [0, 1], [1, 0], "f1") == MeasuredMetric(
        "f1",
        0.0,
        {"true positives": 0, "false positives": 1, "false negatives": 1, "true negatives": 0},
    )
    assert only("STS-B", [1, 2, 1], [0, 1, 2], "pearson").undefined == ""


def test_every_task_is_measured() -> None:
    for task in TASKS.values():
        answers = [0.1, 0.7, 0.4] if task.has_scores else [0, 1, 1]
        found = measure(task, answers, answers)
        assert tuple(m.name for m in found) == task.metrics
        assert all(m.value == pytest.approx(1.0) and not m.undefined for m in found)


def test_scores_that_cannot_be_measured_are_refused() -> None:
    for wrong in (math.nan, math.inf):
        with pytest.raises(UserError, match="the score of example 1 is"):
            measure(TASKS["STS-B"], [0.1, wrong], [0.1, 0.2])
    with pytest.raises(UserError, match="no example of SST-2"):
        measure(TASKS["SST-2"], [], [])
    with pytest.raises(ValueError, match="3 predictions for 2 examples"):
        measure(TASKS["SST-2"], [0, 1, 1], [0, 1])
    for outside in (-1, 2):
        with pytest.raises(ValueError, match="from 0 to 1"):
            measure(TASKS["SST-2"], [0, outside], [0, 1])
    three = TextTask("mine", ("sentence",), classes=("a", "b", "c"), metrics=("matthews",))
    with pytest.raises(ValueError, match="does not measure 3 classes"):
        measure(three, [0, 1], [0, 1])


def test_confusions_count_each_example() -> None:
    np.testing.assert_array_equal(
        confusion_of(3, [0, 2, 2, 1], [0, 1, 2, 1]), [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    )


def test_outputs_that_are_not_numbers_are_refused() -> None:
    """The best class of them would be the first one, whatever is read."""
    outputs = np.array([[0.1, 0.9], [np.nan, 0.2], [0.3, 0.1]])
    assert predictions_of(TASKS["SST-2"], outputs[::2]).tolist() == [1, 0]
    with pytest.raises(UserError, match="the scores of text 1 are not numbers"):
        predictions_of(TASKS["SST-2"], outputs)
