"""The contract of similarity measures, for every registered one and for one never seen before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Callable

import pytest
from readme import readme_snippet
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
    """The measure of the how-to, a file dropped into a folder of measures."""
    folder = tmp_path_factory.mktemp("measures")
    (folder / "procrustes.py").write_text(readme_snippet("Add a measure"), encoding="utf-8")
    MEASURES.names()  # so that all others are known, and stay so
    parts, path = dict(MEASURES._parts), list(similarity.__path__)
    similarity.__path__.append(str(folder))
    MEASURES._walked = False
    assert "procrustes" in MEASURES.names()
    yield "procrustes"
    MEASURES._parts, similarity.__path__[:] = parts, path
    sys.modules.pop(f"{similarity.__name__}.procrustes", None)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_measure_dropped_into_the_folder(new_measure: str, promise: Callable[[Case], None]) -> None:
    for mode in ("U", "T"):
        promise(Case(new_measure, {"mode": mode}))
