"""The Mantel test against plain loops over all orders, and against scipy's correlations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from speechprune.reports.mantel import Matrix, Orders, pearson, spearman


def symmetric(count: int, seed: int, digits: int = 15) -> Matrix:
    """Random values in [0, 1]; with few digits some of them are equal."""
    values = np.random.default_rng(seed).uniform(size=(count, count)).round(digits)
    upper = np.triu(values, 1)
    return upper + upper.T + np.eye(count)


def above(matrix: Matrix) -> list[float]:
    count = len(matrix)
    return [matrix[i, j] for i in range(count) for j in range(i + 1, count)]


@pytest.mark.parametrize("digits", [15, 1])
@pytest.mark.parametrize("seed", range(3))
def test_correlations_are_those_of_scipy(seed: int, digits: int) -> None:
    first, second = symmetric(8, seed, digits), symmetric(8, seed + 100, digits)
    orders = Orders.of(8, most=10)
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        found = ours(first, second, orders)
        assert found is not None
        assert found.value == pytest.approx(theirs(above(first), above(second)).statistic)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)]
)
@pytest.mark.parametrize("seed", range(3))
def test_exact_p_values_count_all_orders(ours, theirs, seed: int) -> None:
    first = symmetric(5, seed, 1)
    second = first + 0.3 * symmetric(5, seed + 50)
    reached = theirs(above(first), above(second)).statistic
    hits = 0
    for order in itertools.permutations(range(5)):
        permuted = first[list(order)][:, list(order)]
        hits += theirs(above(permuted), above(second)).statistic >= reached - 1e-9
    orders = Orders.of(5)
    found = ours(first, second, orders)
    assert orders.exact and len(orders.rows) == 120
    assert found is not None and found.p == hits / 120


def test_random_orders_count_the_one_that_was_found() -> None:
    first, second = symmetric(9, 1), symmetric(9, 2)
    orders = Orders.of(9, most=500, seed=3)
    assert not orders.exact and orders.rows.shape == (500, 9)
    assert (np.sort(orders.rows, axis=1) == np.arange(9)).all()
    reached = np.corrcoef(above(first), above(second))[0, 1]
    drawn = [np.corrcoef(above(first[o][:, o]), above(second))[0, 1] for o in orders.rows]
    found = pearson(first, second, orders)
    assert found is not None
    assert found.p == (1 + sum(r >= reached - 1e-12 for r in drawn)) / 501
    same = pearson(first, first, orders)
    assert same is not None and same.value == pytest.approx(1.0) and same.p == 1 / 501


def test_random_orders_come_close_to_all_orders() -> None:
    first, second = symmetric(7, 5), symmetric(7, 6)
    every, some = Orders.of(7), Orders.of(7, most=5000)
    assert every.exact and len(every.rows) == math.factorial(7) and not some.exact
    exact, drawn = pearson(first, second, every), pearson(first, second, some)
    assert exact is not None and drawn is not None
    assert drawn.p == pytest.approx(exact.p, abs=0.03)


def test_orders_depend_on_the_seed_alone() -> None:
    one, two, other = (Orders.of(20, most=50, seed=seed).rows for seed in (1, 1, 2))
    assert (one == two).all() and (one != other).any()


def test_renaming_the_things_changes_nothing() -> None:
    first, second = symmetric(6, 7), symmetric(6, 8)
    order = [3, 1, 5, 0, 2, 4]
    orders = Orders.of(6)
    before = pearson(first, second, orders)
    after = pearson(first[order][:, order], second[order][:, order], orders)
    assert before is not None and after is not None
    assert (after.value, after.p) == (pytest.approx(before.value), before.p)


def test_p_values_of_unrelated_matrices_are_even() -> None:
    """Counts of p-values below a level stay within four standard deviations of what is due."""
    orders, count = Orders.of(5), 400
    found = [pearson(symmetric(5, 2 * n), symmetric(5, 2 * n + 1), orders) for n in range(count)]
    p = np.array([each.p for each in found if each is not None])
    assert len(p) == count
    for level in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9):
        spread = math.sqrt(level * (1 - level) / count)
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * spread)


@pytest.mark.parametrize("correlate", [pearson, spearman])
def test_equal_values_have_no_correlation(correlate) -> None:
    even = np.full((5, 5), 0.3) + 1e-15 * symmetric(5, 1)
    np.fill_diagonal(even, 1.0)
    assert correlate(even, symmetric(5, 2), Orders.of(5)) is None
    assert correlate(symmetric(5, 2), even, Orders.of(5)) is None
