"""What each layer keeps: by shares, and within a budget for a whole encoder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from speechprune.errors import UserError
from speechprune.slimming.choice import BudgetChoice, LayerScores, ShareChoice
from speechprune.slimming.cost import Cost
from speechprune.slimming.plan import KeptUnits
from speechprune.slimming.units import LayerUnits

WIDTH, HEADS, HEAD_SIZE, CHANNELS = 8, 4, 2, 12
#: Parameters of what has no units, in the encoders here.
REST = 1000


def units(layer: int) -> LayerUnits:
    attention = [nn.Linear(WIDTH, HEADS * HEAD_SIZE) for _ in range(3)]
    out = nn.Linear(HEADS * HEAD_SIZE, WIDTH)
    blocks = (nn.Linear(WIDTH, CHANNELS), nn.Linear(CHANNELS, WIDTH))
    return LayerUnits(layer, *attention, out, *blocks, HEADS, HEAD_SIZE, torch.relu)


def scores(layers: int = 3, seed: int = 0) -> list[LayerScores]:
    generator = torch.Generator().manual_seed(seed)
    return [
        LayerScores(
            torch.rand(HEADS, generator=generator), torch.rand(CHANNELS, generator=generator)
        )
        for _ in range(layers)
    ]


def best(values: Tensor, count: int) -> tuple[int, ...]:
    return tuple(sorted(values.argsort(descending=True)[:count].tolist()))


def choose_within(choice: BudgetChoice, found: list[LayerScores]) -> tuple[list[KeptUnits], int]:
    """What stays, and the parameters of the whole."""
    layers = [units(number) for number in range(len(found))]
    whole = REST + sum(
        HEADS * layer.parameters_of_head + CHANNELS * layer.parameters_of_channel
        for layer in layers
    )
    return choice.choose(found, layers, Cost(whole, 0), 0), whole


def cost(kept: list[KeptUnits]) -> int:
    layer = units(0)
    return REST + sum(
        len(each.heads) * layer.parameters_of_head
        + len(each.channels) * layer.parameters_of_channel
        for each in kept
    )


def test_shares_keep_the_best_of_each_layer() -> None:
    found = scores()
    kept = ShareChoice(0.5, 0.25).choose(found)
    wanted = [KeptUnits(best(layer.heads, 2), best(layer.channels, 9)) for layer in found]
    assert kept == wanted


def test_a_share_of_0_keeps_all() -> None:
    kept = ShareChoice(0.0, 0.5).choose(scores())
    assert all(layer.heads == tuple(range(HEADS)) for layer in kept)


@pytest.mark.parametrize(("multiple_of", "width"), [(1, 9), (4, 12), (5, 10), (8, 12), (100, 12)])
def test_shares_are_rounded_up_by_the_best_that_would_go(multiple_of: int, width: int) -> None:
    found = scores()
    kept = ShareChoice(0.5, 0.25, multiple_of=multiple_of).choose(found)
    assert [layer.channels for layer in kept] == [best(layer.channels, width) for layer in found]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.65, 0.8, 0.95])
@pytest.mark.parametrize("multiple_of", [1, 4])
def test_a_budget_is_met_from_below(seed: int, share: float, multiple_of: int) -> None:
    kept, whole = choose_within(BudgetChoice(share, multiple_of=multiple_of), scores(seed=seed))
    assert cost(kept) <= share * whole
    if multiple_of == 1:  # no unit that went would have fitted
        for kind, there, parameters in (
            ("heads", HEADS, units(0).parameters_of_head),
            ("channels", CHANNELS, units(0).parameters_of_channel),
        ):
            went = any(len(getattr(layer, kind)) < there for layer in kept)
            assert not went or cost(kept) + parameters > share * whole
    else:
        assert all(len(layer.channels) % 4 == 0 or len(layer.channels) < 4 for layer in kept)


def test_a_head_is_not_worth_less_for_being_larger() -> None:
    """The channels of the lowest scores go before the heads, which have more weights."""
    alike = [LayerScores(torch.ones(HEADS), torch.ones(CHANNELS)) for _ in range(2)]
    alike[1] = LayerScores(torch.full((HEADS,), 0.5), torch.full((CHANNELS,), 0.4))
    kept, _ = choose_within(BudgetChoice(0.95), alike)
    assert kept[0] == KeptUnits.all(HEADS, CHANNELS)
    assert len(kept[1].heads) == HEADS and len(kept[1].channels) < CHANNELS


def test_normalised_scores_do_not_depend_on_the_scale_of_a_layer() -> None:
    found = scores()
    scaled = [LayerScores(1000 * found[0].heads, 10 * found[0].channels), *found[1:]]
    choice = BudgetChoice(0.8, normalised=True)
    assert choose_within(choice, found)[0] == choose_within(choice, scaled)[0]
    raw = BudgetChoice(0.8)
    assert choose_within(raw, found)[0] != choose_within(raw, scaled)[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShareChoice(0.0, 0.0), "both 0"),
        (lambda: ShareChoice(1.0, 0.0), r"share of heads .* \[0, 1\), not 1.0"),
        (lambda: ShareChoice(0.0, -0.1), r"share of channels .* \[0, 1\), not -0.1"),
        (lambda: ShareChoice(0.1, 0.1, "everywhere"), "everywhere"),
        (lambda: ShareChoice(0.1, 0.1, multiple_of=0), "multiple of 0"),
        (lambda: BudgetChoice(0.0), "the budget"),
        (lambda: BudgetChoice(1.5), "the budget"),
        (lambda: choose_within(BudgetChoice(0.3), scores()), "impossible"),
        (lambda: choose_within(BudgetChoice(0.5), scores()), "impossible"),
    ],
)
def test_it_refuses_what_cannot_be(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]
