"""Balanced draws: classes come equally often, and recordings of one class too."""

from __future__ import annotations

import numpy as np
import pytest

from speechprune.tasks.balance import balanced_order

CLASSES = np.array([0] * 80 + [1] * 15 + [2] * 5)


def test_each_class_comes_equally_often() -> None:
    for epoch in range(3):
        drawn = balanced_order(CLASSES, (1, epoch))
        assert len(drawn) == 100
        assert sorted(np.bincount(CLASSES[drawn]).tolist()) == [33, 33, 34]


def test_the_recordings_of_a_class_come_equally_often() -> None:
    counts = np.bincount(balanced_order(CLASSES, (1, 1)), minlength=100)
    for members in (slice(0, 80), slice(80, 95), slice(95, 100)):
        assert counts[members].max() - counts[members].min() <= 1


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    first = balanced_order(CLASSES, (1, 1))
    assert (first == balanced_order(CLASSES, (1, 1))).all()
    assert (first != balanced_order(CLASSES, (1, 2))).any()
    assert (first != balanced_order(CLASSES, (2, 1))).any()


@pytest.mark.parametrize("classes", [[5, 5, 5], [3], [1, 2, 3, 4]])
def test_few_recordings(classes: list[int]) -> None:
    drawn = balanced_order(np.array(classes), (0, 0))
    assert sorted(drawn.tolist()) == list(range(len(classes)))
