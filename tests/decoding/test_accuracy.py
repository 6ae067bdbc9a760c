"""Accuracies: scipy's interval, and counts that lose no utterance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from speechprune.decoding.accuracy import Accuracy, SlotAccuracy


@pytest.mark.parametrize("correct, utterances", [(0, 1), (1, 1), (243, 250), (0, 30), (57, 3000)])
def test_the_interval_is_wilsons(correct: int, utterances: int) -> None:
    found = binomtest(correct, utterances).proportion_ci(0.95, method="wilson")
    expected = (found.low, found.high)
    assert Accuracy(correct, utterances).interval == pytest.approx(expected, abs=1e-12)


def test_of_an_unheard_utterance_no_class_is_right() -> None:
    confusion = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    slot = SlotAccuracy("pitch", ("a", "b", "c"), confusion, np.array([0, 2, 0]))
    assert slot.accuracy == Accuracy(5, 8)
    assert slot.recalls == {"a": Accuracy(3, 4), "b": Accuracy(2, 4), "c": None}
    np.testing.assert_array_equal(slot.shares, [[0.75, 0.25, 0], [0, 0.5, 0], [np.nan] * 3])
