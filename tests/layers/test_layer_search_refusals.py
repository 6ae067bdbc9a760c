"""What cannot be searched is refused, and what is in no score changes nothing."""

from __future__ import annotations

import math
from typing import Any, Optional

import numpy as np
import pytest
from numpy.typing import NDArray
from search_reference import (
    METHODS,
)

from speechprune.errors import UserError
from speechprune.layers.optimum import exact
from speechprune.layers.search import beam, exhaustive, random


def of_shape(*shape: int) -> NDArray:
    return np.ones(shape)


def with_entry(value: Any, dtype: Optional[type] = None) -> NDArray:
    matrix = np.ones((4, 4), dtype=dtype)
    matrix[1, 2] = value
    return matrix


BAD_MATRICES = {
    "not square": (of_shape(4, 5), r"square, not of shape \(4, 5\)"),
    "one dimension": (of_shape(4), r"square, not of shape \(4,\)"),
    "three dimensions": (of_shape(4, 4, 4), r"square, not of shape \(4, 4, 4\)"),
    "number": (np.array(1.0), r"square, not of shape \(\)"),
    "empty": (of_shape(0, 0), "without layers"),
    "one state": (of_shape(1, 1), "without layers"),
    "one layer": (of_shape(2, 2), "no layer to spare"),
    "NaN": (with_entry(math.nan), "not finite"),
    "infinite": (with_entry(math.inf), "not finite"),
    "negative infinite": (with_entry(-math.inf), "not finite"),
    "half precision": (with_entry(math.inf, np.float16), "not finite"),
    "texts": (np.full((4, 4), "1.0"), "U3"),
    "objects": (with_entry(None, object), "object"),
    "complex": (np.ones((4, 4), complex), "complex"),
    "booleans": (np.ones((4, 4), bool), "bool"),
}


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("kind", BAD_MATRICES)
def test_what_is_no_similarity_matrix_is_refused(method: str, kind: str) -> None:
    matrix, message = BAD_MATRICES[kind]
    with pytest.raises(UserError, match=message) as refused:
        METHODS[method](matrix, 1)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("drop", [0, -1, 12, 13, 10**20])
def test_a_number_of_layers_that_cannot_be_dropped_is_refused(method: str, drop: int) -> None:
    with pytest.raises(UserError, match=rf"cannot drop {drop} of 12 layers.*1 to 11") as refused:
        METHODS[method](np.ones((13, 13)), drop)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("layers, drop", [(30, 15), (48, 24), (1000, 500)])
def test_too_many_plans_to_try_are_refused(layers: int, drop: int) -> None:
    with pytest.raises(UserError, match=rf"drop {drop} of {layers} layers.*exact") as refused:
        exhaustive(np.ones((layers + 1, layers + 1)), drop)
    assert "\n" not in str(refused.value)


def test_entries_that_no_plan_uses_change_nothing() -> None:
    matrix = np.random.default_rng(5).random((9, 9))
    spoilt = matrix.copy()
    spoilt[np.tril_indices(9)] = 1e30
    for name, search in METHODS.items():
        assert search(spoilt, 4) == search(matrix, 4), name


def test_no_plans_are_asked_for() -> None:
    for search in (beam, exhaustive, exact, random):
        with pytest.raises(UserError, match="0 plans are none; ask for one or more"):
            search(np.ones((4, 4)), 1, 0)


def test_entries_that_cannot_be_added_up_are_refused() -> None:
    for name, search in METHODS.items():
        with pytest.raises(UserError, match="too large to add up"):
            search(np.full((5, 5), 1e308), 2), name
