"""One pass over the states serves every measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from similarity_formulas import (
    BATCH,
    COUNT,
    utterances_like_speech,
    values_of,
)
from torch import Tensor

from speechprune.errors import UserError
from speechprune.layers.similarity import MEASURES, gather
from speechprune.layers.similarity.statistics import (
    FrameMoments,
    SequenceDistances,
    UtteranceMeans,
)


def test_measures_of_the_same_rows_share_what_is_gathered() -> None:
    built = {
        "svcca": MEASURES.build("svcca"),
        "svcca 0.9": MEASURES.build("svcca", threshold=0.9),
        "svcca T": MEASURES.build("svcca", mode="T"),
        "cka": MEASURES.build("cka"),
        "cka T": MEASURES.build("cka", mode="T"),
        "dc": MEASURES.build("dc", batch_size=BATCH),
        "dc 4": MEASURES.build("dc", batch_size=4),
        "dc seq": MEASURES.build("dc", mode="seq", batch_size=BATCH),
        "dc seq 4": MEASURES.build("dc", mode="seq", batch_size=4),
        "dc-unbiased": MEASURES.build("dc-unbiased", batch_size=BATCH),
        "dc-unbiased seq": MEASURES.build("dc-unbiased", mode="seq", batch_size=BATCH),
    }
    utterances = utterances_like_speech()
    found = dict(zip(built, gather(iter(utterances), list(built.values()))))
    groups = [
        {"svcca", "svcca 0.9", "cka", "dc", "dc 4", "dc-unbiased"},
        {"svcca T", "cka T"},
        {"dc seq", "dc-unbiased seq"},
        {"dc seq 4"},
    ]
    assert len({id(statistic) for statistic in found.values()}) == len(groups)
    for group in groups:
        assert len({id(found[name]) for name in group}) == 1
    frames = sum(states.shape[1] for states in utterances)
    for name, statistic in found.items():
        assert statistic.count == (frames if name.endswith(" T") else COUNT), name
    # Together they are what they are alone.
    for name, measure in built.items():
        assert np.array_equal(measure.matrix(found[name]), values_of(measure, utterances)), name


def test_what_is_shared_is_gathered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    added, add = [], UtteranceMeans.add

    def add_and_note(statistic: UtteranceMeans, states: Tensor) -> None:
        added.append(states)
        add(statistic, states)

    monkeypatch.setattr(UtteranceMeans, "add", add_and_note)
    utterances = utterances_like_speech(count=4)
    gather(utterances, [MEASURES.build(name) for name in ("svcca", "cka", "dc", "dc-unbiased")])
    assert [id(states) for states in added] == [id(states) for states in utterances]


def test_utterances_pass_by_once_and_counts_add_up() -> None:
    measures = [MEASURES.build("cka"), MEASURES.build("cka", mode="T")]
    measures.append(MEASURES.build("dc", mode="seq", batch_size=4))
    utterances, passed = utterances_like_speech(count=6), []

    def one_by_one() -> Iterator[Tensor]:
        for states in utterances:
            passed.append(states.shape[1])
            yield states

    first = gather(one_by_one(), measures)
    assert len(passed) == 6
    assert [statistic.count for statistic in first] == [6, sum(passed), 6]
    for statistic in first:
        before = statistic.count
        statistic.add(utterances[0])
        added = passed[0] if isinstance(statistic, FrameMoments) else 1
        assert statistic.count == before + added
    # Another pass begins anew.
    assert [statistic.count for statistic in gather([], measures)] == [0, 0, 0]
    assert gather(utterances, []) == []


def test_statistics_are_equal_when_they_gather_the_same() -> None:
    assert UtteranceMeans() == UtteranceMeans() and FrameMoments() == FrameMoments()
    assert UtteranceMeans() != FrameMoments()
    assert SequenceDistances(4) == SequenceDistances(4) != SequenceDistances(8)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("svcca", {"threshold": 0.0}, r"threshold.*\(0, 1\), not 0.0"),
        ("svcca", {"threshold": 1.0}, r"threshold.*\(0, 1\), not 1.0"),
        ("svcca", {"threshold": -0.5}, r"threshold.*\(0, 1\), not -0.5"),
        ("svcca", {"threshold": 99}, r"threshold.*\(0, 1\), not 99"),
        ("svcca", {"threshold": float("nan")}, r"threshold.*\(0, 1\), not nan"),
        ("svcca", {"mode": "mean"}, "mode 'mean' is neither U .* nor T"),
        ("cka", {"mode": "seq"}, "mode 'seq' is neither U .* nor T"),
        ("dc", {"mode": "U"}, "mode 'U' is neither mean nor seq"),
        ("dc", {"batch_size": 3}, "batches of 3 utterances"),
        ("dc", {"batch_size": 0}, "batches of 0 utterances"),
        ("dc-unbiased", {"batch_size": -4}, "batches of -4 utterances"),
        ("dc-unbiased", {"mode": "T"}, "mode 'T' is neither mean nor seq"),
        ("svcca", {"treshold": 0.9}, "'treshold'; did you mean 'threshold'"),
        ("cca", {}, "unknown similarity measure 'cca'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        gather([], [MEASURES.build(name, **settings)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", ["U", "T"])
def test_states_that_are_not_finite_are_told(mode: str, value: float) -> None:
    """Or stay so in the values, which a SimilarityMatrix refuses; but no traceback of an SVD."""
    utterances = utterances_like_speech()
    utterances[3][1, 0, 0] = value
    for name in ("svcca", "cka"):
        try:
            found = values_of(MEASURES.build(name, mode=mode), utterances)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert not np.isfinite(found).all()
