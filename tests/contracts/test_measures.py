"""The contract of similarity measures, for every registered one and for one never seen before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Callable

import pytest
from similarity_contract import CONTRACT, Case

import speechprune.layers.similarity as similarity
from speechprune.layers.similarity import MEASURES

#: Settings that change what a measure does, beside its defaults.
VARIANTS = {
    "svcca": [{"mode": "U"}, {"mode": "T"}, {"mode": "U", "threshold": 0.8}],
    "cka": [{"mode": "U"}, {"mode": "T"}],
    "dc": [{"mode": "mean"}, {"mode": "seq"}, {"mode": "mean", "batch_size": 16}],
    "dc-unbiased": [{"mode": "mean"}, {"mode": "seq"}],
}
CASES = [Case(name, settings) for name in MEASURES.names() for settings in VARIANTS.get(name, [{}])]

PROCRUSTES = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from speechprune.layers.similarity.base import MEASURES
from speechprune.layers.similarity.rows import RowMeasure


@MEASURES.register("fresh_procrustes")
@dataclass(frozen=True)
class Procrustes(RowMeasure):
    mode: str = "T"

    invariances: ClassVar[frozenset[str]] = frozenset({"translation", "scale", "rotation"})

    def of(self, moments):
        sizes = [float(moments.covariance(i).trace()) for i in range(moments.states)]
        matrix = np.eye(moments.states)
        for i, j, product in moments.products():
            size = max(sizes[i], 0.0) * max(sizes[j], 0.0)
            found = float(torch.linalg.svdvals(product).sum()) / size**0.5 if size else 0.0
            matrix[i, j] = matrix[j, i] = found
        return matrix.clip(0.0, 1.0)
"""


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_registered_measure(case: Case, promise: Callable[[Case], None]) -> None:
    promise(case)


def test_every_registered_measure_is_tested_in_every_mode() -> None:
    assert {case.name for case in CASES} == set(MEASURES.names()) >= set(VARIANTS)
    for name in MEASURES.names():
        if "mode" in MEASURES.get(name).settings():
            tested = {case.build().mode for case in CASES if case.name == name}
            assert tested in ({"U", "T"}, {"mean", "seq"}), name


@pytest.fixture(scope="module")
def new_measure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A measure of some ten lines, a file dropped into a folder of measures."""
    folder = tmp_path_factory.mktemp("measures")
    (folder / "fresh_procrustes.py").write_text(PROCRUSTES, encoding="utf-8")
    parts, path = dict(MEASURES._parts), list(similarity.__path__)
    similarity.__path__.append(str(folder))
    MEASURES._walked = False
    assert "fresh_procrustes" in MEASURES.names()
    yield "fresh_procrustes"
    MEASURES._parts, similarity.__path__[:] = parts, path
    sys.modules.pop(f"{similarity.__name__}.fresh_procrustes", None)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_measure_dropped_into_the_folder(new_measure: str, promise: Callable[[Case], None]) -> None:
    for mode in ("U", "T"):
        promise(Case(new_measure, {"mode": mode}))
