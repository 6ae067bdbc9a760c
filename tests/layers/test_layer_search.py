"""Searches for layers to drop: published results, and references in exact arithmetic."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_reference import (
    METHODS,
    PUBLISHED,
    Reference,
    assert_scores,
    matrices,
    runs_of,
    sets,
)

from speechprune.layers.optimum import exact
from speechprune.layers.plan import LayerPlan
from speechprune.layers.search import beam, exhaustive, greedy, random, score


@pytest.fixture(scope="module")
def published(shared_data: Path) -> list[dict[str, Any]]:
    """What each search must return on two of the published matrices; layers are 1-based."""
    folder = shared_data / "comflp"
    rows = json.loads((folder / "expected_search.json").read_text(encoding="utf-8"))
    assert len(rows) == 66
    return [{**row, "similarity": np.load(folder / row["matrix"])} for row in rows]


@pytest.mark.parametrize("drop", range(1, 12))
@pytest.mark.parametrize("method", ["greedy", "beam", "exhaustive"])
@pytest.mark.parametrize("matrix", PUBLISHED)
def test_published_searches(
    published: list[dict[str, Any]], matrix: str, method: str, drop: int
) -> None:
    (row,) = [
        row
        for row in published
        if (row["matrix"], row["method"], row["k"]) == (matrix, method, drop)
    ]
    assert row["beam_size"] == (10 if method == "beam" else None)
    plans = METHODS[method](row["similarity"], drop)
    expected = [tuple(layer - 1 for layer in layers) for layers, _ in row["candidates"]]
    assert sets(plans) == expected
    for plan, (_, value) in zip(plans, row["candidates"]):
        assert plan.layers == 12
        assert plan.score == pytest.approx(value, abs=1e-12)
    if method == "exhaustive":
        assert exact(row["similarity"], drop) == plans


def test_greedy_misses_and_exact_does_not(published: list[dict[str, Any]]) -> None:
    """Half of the published matrices: greedy is best of all in some of 22 cases, not in all."""
    missed = 0
    for row in published:
        if row["method"] == "greedy":
            (found,), best = greedy(row["similarity"], row["k"]), exact(row["similarity"], row["k"])
            assert best[0].score >= found.score
            missed += best[0].dropped != found.dropped
    assert 0 < missed < 22


@pytest.mark.parametrize("layers", [2, 3, 5, 7, 10])
def test_exact_and_exhaustive_are_brute_force(layers: int) -> None:
    for name, matrix in matrices(layers, seed=layers).items():
        reference = Reference(matrix)
        for drop in range(1, layers):
            expected = reference.all(drop)
            for top in (1, 10, len(expected), len(expected) + 5)[: 2 if layers > 8 else 4]:
                plans = exact(matrix, drop, top)
                assert sets(plans) == expected[:top], (name, drop, top)
                assert exhaustive(matrix, drop, top) == plans, (name, drop, top)
            assert_scores(plans, reference)


@pytest.mark.parametrize(
    "name", ["uniform", "of both signs", "few values", "bits", "ones", "steps of 1/64"]
)
def test_exact_is_brute_force_up_to_14_layers(name: str) -> None:
    for layers, drop in ((13, 6), (14, 3), (14, 7), (14, 12)):
        matrix = matrices(layers, seed=100 + layers)[name]
        expected = Reference(matrix).all(drop)
        for top in (1, 10, 77):
            assert sets(exact(matrix, drop, top)) == expected[:top], (layers, drop, top)


@pytest.mark.parametrize("seed", range(40))
def test_exact_is_brute_force_where_nearly_everything_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    layers = int(generator.integers(4, 10))
    values = generator.choice([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0], size=int(generator.integers(2, 4)))
    matrix = generator.choice(values, size=(layers + 1, layers + 1))
    matrix[0, layers] = 1.0
    reference = Reference(matrix)
    drop, top = int(generator.integers(1, layers)), int(generator.integers(1, 30))
    expected = reference.all(drop)
    assert sets(exact(matrix, drop, top)) == expected[:top]
    assert sets(exhaustive(matrix, drop, top)) == expected[:top]


def test_exhaustive_goes_on_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechprune.layers.search._CHUNK", 7)
    for name, matrix in matrices(8, seed=1).items():
        expected = Reference(matrix).all(4)
        for top in (1, 10, 100):
            assert sets(exhaustive(matrix, 4, top)) == expected[:top], (name, top)


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0), (1.0, 2.0, 3.0, 5.0, 7.0)])
def test_scores_that_are_equal_tie_whatever_the_largest_entry(values: tuple[float, ...]) -> None:
    """1, 2 and 3 are floats without rounding: (1 + 3) / 2 is 2, if the largest is 3 or not."""
    for seed in range(10):
        matrix = np.random.default_rng(seed).choice(values, size=(8, 8))
        reference = Reference(matrix)
        for drop in (2, 3, 4):
            assert sets(exact(matrix, drop)) == reference.all(drop)[:10], (seed, drop)
            assert sets(exhaustive(matrix, drop)) == reference.all(drop)[:10], (seed, drop)
            assert sets(beam(matrix, drop)) == reference.beam(drop, 10), (seed, drop)


@pytest.mark.parametrize("layers", [2, 4, 7, 10])
def test_beam_is_the_plain_search(layers: int) -> None:
    for name, matrix in matrices(layers, seed=20 + layers).items():
        reference = Reference(matrix)
        for drop in range(1, layers):
            for width in (1, 2, 5, 10):
                expected = reference.beam(drop, width)
                plans = beam(matrix, drop, top=width, width=width)
                assert sets(plans) == expected, (name, drop, width)
                assert len(set(sets(plans))) == len(plans)
                assert sets(beam(matrix, drop, top=3, width=width)) == expected[:3]
            assert_scores(plans, reference)
            assert sets(greedy(matrix, drop)) == reference.beam(drop, 1), (name, drop)


def test_a_beam_that_is_wide_enough_finds_everything() -> None:
    for name, matrix in matrices(7, seed=3).items():
        for drop in range(1, 7):
            expected = Reference(matrix).all(drop)
            assert sets(beam(matrix, drop, top=100, width=100)) == expected, (name, drop)


def test_random_draws_different_plans_and_ranks_them() -> None:
    for name, matrix in matrices(9, seed=4).items():
        reference = Reference(matrix)
        plans = random(matrix, 4, top=20, seed=1)
        assert len(set(sets(plans))) == len(plans) == 20
        assert all(len(plan.dropped) == 4 for plan in plans)
        assert sets(plans) == reference.ranked(set(sets(plans))), name
        assert random(matrix, 4, top=20, seed=1) == plans
        assert set(sets(random(matrix, 4, top=20, seed=2))) != set(sets(plans))
        assert_scores(plans, reference)


def test_random_gives_all_plans_if_fewer_than_asked() -> None:
    for name, matrix in matrices(6, seed=5).items():
        for drop in range(1, 6):
            expected = Reference(matrix).all(drop)
            for top in (len(expected), len(expected) + 1, 1000):
                assert sets(random(matrix, drop, top=top, seed=7)) == expected, (name, drop)


def test_random_looks_everywhere() -> None:
    """Of 15 pairs each is drawn by about a fifteenth of the seeds, whatever it is worth."""
    matrix = matrices(6, seed=6)["uniform"]
    drawn = [sets(random(matrix, 2, top=1, seed=seed))[0] for seed in range(600)]
    counts = [drawn.count(pair) for pair in combinations(range(6), 2)]
    assert sum(counts) == 600 and min(counts) > 15 and max(counts) < 70


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_constant_more_or_a_factor_leaves_the_ranking(name: str) -> None:
    search = METHODS[name]
    for kind in ("uniform", "symmetric", "of both signs", "like a model's"):
        matrix = matrices(10, seed=8)[kind]
        for drop in (1, 4, 9):
            expected = sets(search(matrix, drop))
            for factor, constant in ((1.0, 0.5), (1.0, -3.0), (0.125, 0.0), (7.0, 100.0)):
                changed = sets(search(factor * matrix + constant, drop))
                assert changed == expected, (kind, drop, factor, constant)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_entries_that_are_no_run_do_not_matter(name: str) -> None:
    """Below the diagonal, on it, and of more layers than go."""
    matrix = matrices(8, seed=9)["uniform"]
    expected = METHODS[name](matrix, 3)
    states = np.arange(9)
    is_run = (0 < states - states[:, None]) & (states - states[:, None] <= 3)
    other = np.where(is_run, matrix, matrix.T - 0.1)
    assert METHODS[name](other, 3) == expected
    before = other.copy()
    METHODS[name](other, 3)
    assert np.array_equal(before, other)


def test_24_layers() -> None:
    for name, matrix in matrices(24, seed=10).items():
        found = exact(matrix, 12)
        assert len(set(sets(found))) == 10
        best = [plan.score for plan in found]
        assert best == sorted(best, reverse=True)
        for other in (beam(matrix, 12), greedy(matrix, 12), random(matrix, 12)):
            for mine, theirs in zip(best, (plan.score for plan in other)):
                assert mine >= theirs * (1 - 1e-12) or mine >= theirs + 1e-12 * theirs, name


def test_1000_layers() -> None:
    states = np.arange(1001)
    noise = np.random.default_rng(11).uniform(size=(1001, 1001))
    matrix = np.exp(-np.abs(states[:, None] - states) / 300) - 0.2 * noise
    best, searched, step_by_step = exact(matrix, 500), beam(matrix, 500), greedy(matrix, 500)
    assert len(set(sets(best))) == len(best) == 10
    for plan in (*best, *searched, *step_by_step):
        assert len(plan.dropped) == 500 and plan.dropped[-1] < 1000
        mean = math.fsum(matrix[first, end] for first, end in runs_of(plan.dropped))
        assert plan.score == pytest.approx(mean / len(runs_of(plan.dropped)), abs=1e-12)
    for mine, theirs in zip(best, searched):
        assert mine.score >= theirs.score
    assert searched[0].score >= step_by_step[0].score


def test_plans_of_equal_scores_drop_early_layers_first() -> None:
    plans = exact(np.ones((1 + 30, 1 + 30)), 15, top=3)
    first = tuple(range(14))
    assert sets(plans) == [(*first, 14), (*first, 15), (*first, 16)]
    assert sets(beam(np.ones((31, 31)), 15, top=3)) == sets(plans)


def test_score_is_the_plain_mean_over_runs() -> None:
    """Long runs count as much as short ones."""
    matrix = np.zeros((7, 7))
    matrix[0, 3], matrix[4, 5] = 1.0, 0.5
    assert score(matrix, LayerPlan(6, (0, 1, 2, 4))) == 0.75
    assert score(matrix, LayerPlan(6, (0, 1, 2))) == 1.0
    matrix[2, 4] = 0.25
    assert score(matrix, LayerPlan(6, (2, 3))) == 0.25
