"""What every similarity measure promises, as functions over a measure: see `CONTRACT`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechprune.errors import UserError
from speechprune.layers.similarity import MEASURES, Measure, gather

CHANNELS = 8
#: Five batches of a measure that compares batches of 32.
UTTERANCES = 160
#: Data sets, or seeds, that the mean of a floor is taken over.
DRAWS = 10

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A measure with its settings."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name, *(str(value) for value in self.settings.values())])

    def build(self) -> Measure:
        return MEASURES.build(self.name, **self.settings)

    def matrix(self, utterances: Sequence[Tensor]) -> NDArray[np.float64]:
        measure = self.build()
        (statistic,) = gather(utterances, [measure])
        return measure.matrix(statistic)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def independent(states: int, seed: int, frames: int = 5) -> list[Tensor]:
    """Gaussian states that have nothing to do with each other."""
    draw = generator(seed)
    shape = (states, frames, CHANNELS)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(UTTERANCES)]


def like_a_model(longest: int = 8) -> list[Tensor]:
    """Utterances of 3 to ``longest`` frames, of four states: each made of the one before."""
    draw = generator(0)
    spread = torch.linspace(2.0, 0.3, CHANNELS, dtype=torch.float64)
    maps = torch.randn(3, CHANNELS, CHANNELS, generator=draw, dtype=torch.float64) / 2
    found = []
    for _ in range(UTTERANCES):
        frames = int(torch.randint(3, longest + 1, (), generator=draw))
        noise = torch.randn(5, frames, CHANNELS, generator=draw, dtype=torch.float64)
        mean = torch.randn(CHANNELS, generator=draw, dtype=torch.float64)
        states = [spread * (noise[0] + mean) + 0.5]
        for mixing, own in zip(maps, noise[1:]):
            states.append(states[-1] @ mixing + states[-1] + 0.7 * own)
        found.append(torch.stack(states))
    return found


def orthogonal(seed: int) -> Tensor:
    shape = (CHANNELS, CHANNELS)
    q, r = torch.linalg.qr(torch.randn(shape, generator=generator(seed), dtype=torch.float64))
    return q * r.diagonal().sign()


def changes() -> dict[str, Change]:
    """What can be claimed not to matter, done to one state (T, C)."""
    offset = torch.linspace(-2.0, 3.0, CHANNELS, dtype=torch.float64)
    rotation, other = orthogonal(1), orthogonal(2)
    anisotropic = rotation * torch.logspace(-1.5, 1.5, CHANNELS, dtype=torch.float64) @ other
    return {
        "translation": lambda x: x + offset,
        "scale": lambda x: x * 17.0,
        "rotation": lambda x: x @ rotation,
        "linear": lambda x: x @ anisotropic,
    }


def changed(utterances: Sequence[Tensor], state: int, change: Change) -> list[Tensor]:
    found = [states.clone() for states in utterances]
    for states in found:
        states[state] = change(states[state])
    return found


def one_with_itself(case: Case) -> None:
    """By the diagonal, and as two states that happen to be the same."""
    doubled = [torch.cat([states, states[1:2]]) for states in like_a_model()]
    matrix = case.matrix(doubled)
    assert np.allclose(np.diag(matrix), 1.0, atol=1e-3)
    assert matrix[1, 4] == pytest.approx(1.0, abs=1e-3)
    assert np.allclose(matrix[4], matrix[1], atol=1e-3)


def symmetric_and_within_0_and_1(case: Case) -> None:
    for utterances in (like_a_model(), independent(3, seed=1)):
        matrix = case.matrix(utterances)
        states = len(utterances[0])
        assert matrix.shape == (states, states) and matrix.dtype == np.float64
        assert np.array_equal(matrix, matrix.T)
        assert (matrix >= 0.0).all() and (matrix <= 1.0).all()


def likeness_is_seen(case: Case) -> None:
    """The more noise between two states, the less alike they are."""
    draw = generator(3)
    amounts = torch.tensor([0.0, 0.1, 0.5, 2.0], dtype=torch.float64)[:, None, None]
    utterances = []
    for state in independent(1, seed=2):
        noise = torch.randn((4, *state.shape[1:]), generator=draw, dtype=torch.float64)
        utterances.append(state + amounts * noise)
    values = case.matrix(utterances)[0]
    assert (np.diff(values) < -1e-3).all(), values


def claimed_invariances_hold(case: Case) -> None:
    utterances = like_a_model()
    expected = case.matrix(utterances)
    measure = case.build()
    assert set(measure.invariances) <= set(changes())
    for name in measure.invariances:
        for state in (0, 2):
            found = case.matrix(changed(utterances, state, changes()[name]))
            assert np.allclose(found, expected, atol=1e-6), (name, state)


def what_is_not_claimed_matters(case: Case) -> None:
    """So that a claim that is missing is missed."""
    utterances = like_a_model()
    expected = case.matrix(utterances)
    for name in set(changes()) - case.build().invariances:
        found = case.matrix(changed(utterances, 2, changes()[name]))
        assert np.abs(found - expected)[2, [0, 1, 3]].max() > 2e-3, name


def pairs_do_not_see_other_states(case: Case) -> None:
    utterances = like_a_model()
    expected = case.matrix(utterances)
    chosen = [3, 1]
    found = case.matrix([states[chosen] for states in utterances])
    assert np.allclose(found, expected[np.ix_(chosen, chosen)], atol=1e-9)


def independent_data_is_near_the_floor(case: Case) -> None:
    """On average over fresh data, and over seeds of the floor."""
    measure = case.build()
    found, floors = [], []
    for draw in range(DRAWS):
        (statistic,) = gather(independent(2, seed=100 + draw), [measure])
        found.append(measure.matrix(statistic)[0, 1])
        floors.append(measure.floor(statistic, seed=draw))
    assert 0.0 <= min(floors) and max(floors) < 1.0
    error = np.sqrt((np.var(found, ddof=1) + np.var(floors, ddof=1)) / DRAWS)
    assert np.ptp(found) > 0.0 and np.ptp(floors) > 0.0
    assert abs(np.mean(found) - np.mean(floors)) < 4 * error + 1e-6
    assert error < 0.02, "then the line above says nothing"
    # What is not independent is above it.
    assert case.matrix(like_a_model())[0, 1] > np.mean(floors) + 4 * np.std(found)


def the_floor_is_of_the_size_alone(case: Case) -> None:
    measure = case.build()
    utterances = independent(2, seed=5)
    (statistic,) = gather(utterances, [measure])
    before = torch.get_rng_state()
    expected = measure.floor(statistic)
    assert expected == measure.floor(statistic, seed=0) == measure.floor(statistic)
    assert len({measure.floor(statistic, seed=seed) for seed in range(8)}) > 1
    assert torch.equal(torch.get_rng_state(), before)
    (same_size,) = gather([17.0 * states[:1] + 1.0 for states in utterances], [measure])
    assert measure.floor(same_size) == expected


def nothing_is_left_to_chance(case: Case) -> None:
    utterances = like_a_model()
    before = [states.clone() for states in utterances]
    measure = case.build()
    (statistic,) = gather(utterances, [measure])
    expected = measure.matrix(statistic)
    assert np.array_equal(measure.matrix(statistic), expected)
    torch.manual_seed(1234)
    assert np.array_equal(case.matrix(utterances), expected)
    assert np.array_equal(case.matrix(iter(utterances)), expected)
    assert all(torch.equal(*pair) for pair in zip(utterances, before))


def the_order_of_utterances_does_not_matter(case: Case) -> None:
    """Of those that are compared with each other: 160 is a multiple of any batch."""
    utterances = like_a_model()
    expected = case.matrix(utterances)
    assert np.allclose(case.matrix(utterances[::-1]), expected, atol=1e-9)
    assert not np.allclose(case.matrix(utterances[:128]), expected, atol=1e-4)


def states_that_do_not_vary_give_numbers(case: Case) -> None:
    """Such as those of a layer of zeros."""
    for value in (0.0, 1.0, 0.1):
        utterances = changed(like_a_model(), 2, lambda x: torch.full_like(x, value))  # noqa: B023
        matrix = case.matrix(utterances)
        assert np.isfinite(matrix).all(), value
        assert (matrix >= 0.0).all() and (matrix <= 1.0).all()
        others = np.ix_([0, 1, 3], [0, 1, 3])
        assert np.allclose(matrix[others], case.matrix(like_a_model())[others], atol=1e-9)


def states_that_do_not_vary_are_like_no_other(case: Case) -> None:
    """Nor do lengths: a measure may see where utterances end."""
    for value in (0.0, 1.0):
        utterances = like_a_model(longest=3)
        utterances = changed(utterances, 2, lambda x: torch.full_like(x, value))  # noqa: B023
        matrix = case.matrix(utterances)
        assert np.allclose(matrix[2, [0, 1, 3]], 0.0, atol=1e-2), value


def half_precision_states_lose_nothing_more(case: Case) -> None:
    """What they are made of is summed in double precision."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        rounded = [states.to(dtype) for states in like_a_model()]
        expected = case.matrix([states.double() for states in rounded])
        assert np.allclose(case.matrix(rounded), expected, atol=1e-9), dtype


def too_little_is_refused(case: Case) -> None:
    measure = case.build()
    for utterances in ([], [torch.ones(2, 1, CHANNELS)]):
        (statistic,) = gather(utterances, [measure])
        assert statistic.count == len(utterances)
        with pytest.raises(UserError, match=f"{len(utterances)} .* too few") as refused:
            measure.matrix(statistic)
        assert "\n" not in str(refused.value)


def so_many_utterances_are_needed(case: Case) -> None:
    measure = case.build()
    utterances = like_a_model()
    matrix = case.matrix(utterances[: measure.least])
    assert np.isfinite(matrix).all() and np.allclose(np.diag(matrix), 1.0, atol=1e-3)
    with pytest.raises(UserError, match="too few"):
        case.matrix(utterances[: measure.least - 1])


def a_mode_that_is_none_is_refused_at_once(case: Case) -> None:
    measure = case.build()
    if "mode" not in measure.settings():
        return

    def states() -> Iterator[Tensor]:
        raise AssertionError("a state was asked for")
        yield

    for mode in ("", "nonsense", case.settings.get("mode", "U").swapcase()):
        wrong = MEASURES.build(case.name, **{**case.settings, "mode": mode})
        with pytest.raises(UserError, match=f"mode '{mode}'") as refused:
            gather(states(), [measure, wrong])
        assert "\n" not in str(refused.value)


def settings_describe_it(case: Case) -> None:
    measure = case.build()
    described = measure.describe()
    assert list(described) == measure.settings()
    assert case.settings.items() <= described.items()
    again = MEASURES.build(case.name, **described)
    assert again == measure
    utterances = like_a_model()
    (statistic,) = gather(utterances, [again])
    assert np.array_equal(again.matrix(statistic), case.matrix(utterances))


CONTRACT: Sequence[Callable[[Case], None]] = (
    one_with_itself,
    symmetric_and_within_0_and_1,
    likeness_is_seen,
    claimed_invariances_hold,
    what_is_not_claimed_matters,
    pairs_do_not_see_other_states,
    independent_data_is_near_the_floor,
    the_floor_is_of_the_size_alone,
    nothing_is_left_to_chance,
    the_order_of_utterances_does_not_matter,
    states_that_do_not_vary_give_numbers,
    states_that_do_not_vary_are_like_no_other,
    half_precision_states_lose_nothing_more,
    too_little_is_refused,
    so_many_utterances_are_needed,
    a_mode_that_is_none_is_refused_at_once,
    settings_describe_it,
)
