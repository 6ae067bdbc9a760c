"""The contract of mask policies, for every registered one and for one never seen before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Callable

import pytest
from mask_promises import MASK_PROMISES
from policy_case import Case, digest, digests_elsewhere
from readme import readme_snippet
from training_promises import TRAINING_PROMISES

import speechprune.masking.policies as policies
from speechprune.masking.policies import POLICIES

CONTRACT = (*MASK_PROMISES, *TRAINING_PROMISES)
#: Options that change what a policy does, beside its defaults.
VARIANTS = {
    "s3router": [
        {"init_score": "weight_rank"},
        {"granularity": "row", "sigmoid": True},
        {"granularity": "column"},
    ],
    "n_m": [{"n": 1, "m": 4}, {"n": 2, "m": 3}],
}
CASES = [
    *(
        Case(name, options)
        for name in POLICIES.names()
        for options in ({}, *VARIANTS.get(name, []))
    ),
    *(
        Case(name, frozen=True)
        for name in POLICIES.names()
        if POLICIES.get(name).trains_weights and not POLICIES.get(name).needs_trained_weights
    ),
]

MOVEMENT = """
import torch
from speechprune.masking.policies.base import POLICIES, MaskPolicy


@POLICIES.register("fresh_movement")
class Movement(MaskPolicy):
    trains_weights = True

    def init_scores(self, weight, density, generator):
        return torch.zeros_like(weight)

    def score_shape(self, shape):
        return shape

    def importance(self, weight, scores, generator):
        return scores

    def score_gradient(self, gradient, weight, scores):
        return gradient * weight
"""


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_registered_policy(case: Case, promise: Callable[[Case], None]) -> None:
    promise(case)


def test_masks_are_equal_across_processes_and_hash_seeds() -> None:
    here = [digest(case) for case in CASES]
    # What is drawn does not depend on the weights.
    told_apart = [case for case in CASES if not (case.frozen and case.build().redraws)]
    assert len(set(here)) == len(told_apart)
    assert digests_elsewhere(CASES, (0, 4242)) == [here, here]


@pytest.fixture(scope="module")
def new_policies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Case]]:
    """A policy of some ten lines, and that of the how-to, as files in a folder of policies."""
    folder = tmp_path_factory.mktemp("policies")
    (folder / "fresh_movement.py").write_text(MOVEMENT, encoding="utf-8")
    (folder / "row_magnitude.py").write_text(readme_snippet("Add a policy"), encoding="utf-8")
    POLICIES.names()  # so that all others are known, and stay so
    parts, path = dict(POLICIES._parts), list(policies.__path__)
    POLICIES._walked = False
    yield [Case(name, folder=str(folder)) for name in ("fresh_movement", "row_magnitude")]
    POLICIES._parts, policies.__path__[:] = parts, path
    for name in ("fresh_movement", "row_magnitude"):
        sys.modules.pop(f"{policies.__name__}.{name}", None)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_policy_dropped_into_the_folder(
    new_policies: list[Case], promise: Callable[[Case], None]
) -> None:
    for case in new_policies:
        promise(case)


def test_new_policies_are_equal_across_processes(new_policies: list[Case]) -> None:
    here = [digest(case) for case in new_policies]
    assert digests_elsewhere(new_policies, (7,)) == [here]
