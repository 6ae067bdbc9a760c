"""Which states are compared, those after the same layers or as deep; and projected how."""

from __future__ import annotations

import pytest
import torch

from speechprune.distillation.matching import Stack, default_states, matching_states
from speechprune.distillation.projections import Projections
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan


@pytest.mark.parametrize(
    ("layers", "states"),
    [(12, (0, 4, 8, 12)), (24, (0, 8, 16, 24)), (7, (0, 2, 5, 7)), (2, (0, 1, 2)), (1, (0, 1))],
)
def test_thirds_by_default(layers: int, states: tuple[int, ...]) -> None:
    assert default_states(layers) == states


def lost(layers: int, *dropped: int) -> Stack:
    return Stack(layers - len(dropped), LayerPlan(layers, dropped))


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (Stack(12), Stack(12), (0, 4, 8, 12)),
        # The states after layers 3, 7 and 11, or after the last before them that is there.
        (Stack(12), lost(12, 3), (0, 3, 7, 11)),
        (Stack(12), lost(12, 0, 1, 2, 3), (0, 0, 4, 8)),
        (Stack(12), lost(12, 9, 10, 11), (0, 4, 8, 9)),
        (Stack(12), lost(12, 4, 5, 6, 7), (0, 4, 4, 8)),
        # At the same share of the depth.
        (Stack(12), Stack(6), (0, 2, 4, 6)),
        (Stack(12), Stack(2), (0, 1, 1, 2)),
        (Stack(12), lost(24, *range(1, 24, 2)), (0, 4, 8, 12)),
    ],
)
def test_states_match(teacher: Stack, student: Stack, expected: tuple[int, ...]) -> None:
    assert matching_states((0, 4, 8, 12), teacher, student) == expected


def test_a_teacher_may_have_lost_layers_too() -> None:
    """Its states 0 to 3 stand after nothing, layer 0, layer 2 and layer 3 of four."""
    states = matching_states((0, 1, 2, 3), lost(4, 1), lost(4, 2))
    assert states == (0, 1, 2, 3)
    assert matching_states((0, 1, 2, 3), lost(4, 1), lost(4, 0, 3)) == (0, 0, 2, 2)


def test_a_stack_agrees_with_its_record() -> None:
    with pytest.raises(UserError, match="a model of 5 layers .* record of lost layers is damaged"):
        Stack(5, LayerPlan(4, (1,)))


def test_projections_begin_as_the_identity_and_draw_nothing() -> None:
    random = torch.get_rng_state()
    projections = Projections(6)
    assert torch.equal(torch.get_rng_state(), random)
    state = torch.randn(4, 2, 6)
    assert torch.equal(projections(0, state), state)
    assert torch.equal(projections(4, state.half()), state.half().float())


def test_state_0_has_a_projection_of_its_own_and_the_others_share_one() -> None:
    projections = Projections(6)
    state = torch.randn(4, 2, 6)
    for number, name in ((0, "first"), (1, "others"), (8, "others")):
        projections.zero_grad(set_to_none=True)
        projections(number, state).sum().backward()
        trained = {
            key.split(".")[0] for key, p in projections.named_parameters() if p.grad is not None
        }
        assert trained == {name}
