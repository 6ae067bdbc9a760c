"""Which units stay, against Intel Neural Compressor's masks and against plain loops."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from slimming_reference import SlimmingReference
from torch import Tensor

from speechprune.errors import UserError
from speechprune.slimming.selection import SCOPES, removed_count, select_units


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> SlimmingReference:
    return SlimmingReference(shared_data)


def kept(scores: list[list[float]], *args: object, **options: float) -> list[list[int]]:
    tensors = [torch.tensor(layer) for layer in scores]
    return [mask.int().tolist() for mask in select_units(tensors, *args, **options)]  # type: ignore[arg-type]


def bounds_of(key: str) -> tuple[float, float]:
    """The floor and the cap of a key such as ``snip.global.0.5.max0.6.min0.3``."""
    if "max" not in key:
        return 0.0, 0.98
    return float(key.split(".min")[1]), float(key.split(".max")[1].split(".min")[0])


#: The reference does not rank again where a floor binds: it stops removing from each layer, in
#: their order, once the later ones could not reach their floors any more.
FLOOR_BY_ORDER = "snip_momentum.global.0.5.max0.98.min0.4"


def test_channel_masks_are_those_of_the_reference(reference: SlimmingReference) -> None:
    """To the bit, of as many channels as the reference removed: it truncates where we round."""
    as_given = 0
    for key, expected in reference.masks("column").items():
        criterion, scope, whole, decimals = key.split(".")[:4]
        if key == FLOOR_BY_ORDER:
            continue
        share = float(f"{whole}.{decimals}")
        floor, cap = bounds_of(key)
        scores = list(reference.scores("column", criterion)[-1])
        removed, size = int((~expected).sum()), expected.shape[1]
        # A bound of the reference is truncated to whole units, like its share.
        truncated = {"floor": int(floor * size) / size, "cap": int(cap * size) / size}
        found = select_units(scores, removed / expected.numel(), scope, **truncated)
        assert torch.stack(found).equal(expected), key
        layers = len(scores)
        ours = (
            layers * removed_count(size, share)
            if scope == "local"
            else round(layers * size * share)
        )
        if ours == removed and removed_count(size, cap) == int(cap * size):
            as_given += 1
            found = select_units(scores, share, scope, floor=floor, cap=cap)
            assert torch.stack(found).equal(expected), key
    assert as_given == 35


def test_a_floor_takes_the_smallest_scores_that_it_allows(reference: SlimmingReference) -> None:
    """As many as the reference takes, and less of what matters."""
    theirs = reference.masks("column")[FLOOR_BY_ORDER]
    scores = reference.scores("column", "snip_momentum")[-1]
    ours = torch.stack(select_units(list(scores), 0.5, "global", floor=0.4))
    assert theirs.sum(1).tolist() == [8, 6, 10] and ours.sum(1).tolist() == [10, 4, 10]
    assert scores[~ours].sum() < scores[~theirs].sum()


def test_head_masks_are_those_of_the_reference(reference: SlimmingReference) -> None:
    """Where it leaves a head in every layer."""
    compared = 0
    for key, expected in reference.masks("head").items():
        criterion, scope, *_ = key.split(".")
        scores = list(reference.scores("head", criterion)[-1])
        if expected.any(1).all():
            share = int((~expected).sum()) / expected.numel()
            assert torch.stack(select_units(scores, share, scope)).equal(expected), key
            compared += 1
    assert compared == 26


def test_layers_that_the_reference_empties_keep_their_best_head(
    reference: SlimmingReference,
) -> None:
    expected = reference.masks("head")["snip_momentum.global.0.5"]
    assert expected.sum(1).tolist() == [2, 0, 4]
    scores = list(reference.scores("head", "snip_momentum")[-1])
    found = torch.stack(select_units(scores, 0.5, "global"))
    assert int(found.sum()) == int(expected.sum())
    assert found[1].nonzero().flatten().tolist() == [int(scores[1].argmax())]
    # One more had to go in its place: the next of the first layer, whose scores are smaller.
    assert found.sum(1).tolist() == [1, 1, 4]
    assert not (found[0] & ~expected[0]).any()


def test_what_the_reference_cannot_do_is_refused(reference: SlimmingReference) -> None:
    """Its key global.0.75.max0.6.min0.3, which ended in an error of kthvalue."""
    assert list(reference.facts["refused_by_inc"]) == ["global.0.75.max0.6.min0.3"]
    scores = list(reference.scores("column", "snip_momentum")[-1])
    with pytest.raises(UserError, match="does not lie between the floor and the cap"):
        select_units(scores, 0.75, "global", floor=0.3, cap=0.6)


def test_ties_are_counted(reference: SlimmingReference) -> None:
    """The reference removes all that tie: five of eight at a share of a quarter."""
    ties = reference.facts["ties"]
    assert sum(ties["mask_at_0.25"]) == 3
    for scope in SCOPES:
        assert kept(ties["scores"], 0.25, scope) == [[1, 1, 1, 0, 0, 1, 1, 1]]


def by_hand(
    scores: list[list[float]], goes: int, fewest: list[int], floors: list[int]
) -> list[list[int]]:
    """Remove one after the other, the smallest first, of ties the last one first."""
    places = [(layer, unit) for layer, each in enumerate(scores) for unit in range(len(each))]
    order = sorted(places, key=lambda place: (scores[place[0]][place[1]], -place[0], -place[1]))
    masks = [[1] * len(each) for each in scores]
    for layer, unit in order:
        if len(scores[layer]) - sum(masks[layer]) < floors[layer]:
            masks[layer][unit] = 0
            goes -= 1
    for layer, unit in order:
        if goes > 0 and masks[layer][unit] and sum(masks[layer]) > fewest[layer]:
            masks[layer][unit] = 0
            goes -= 1
    assert goes == 0
    return masks


@pytest.mark.parametrize("scope", ["global", "global_normalised"])
def test_random_layers_against_a_plain_loop(scope: str) -> None:
    """With ties, layers of different sizes, floors and caps."""
    drawn = random.Random(3)
    refused = 0
    for _ in range(400):
        scores = [
            [drawn.choice([0.0, 0.5, 1.0, 2.0, drawn.random()]) for _ in range(drawn.randint(1, 9))]
            for _ in range(drawn.randint(1, 4))
        ]
        share, floor = drawn.choice([0.0, 0.25, 0.5, drawn.random()]), 0.0
        cap = max(share, drawn.choice([0.5, 0.75, 0.98, 1.0]))
        if drawn.random() < 0.5:
            floor = share * drawn.choice([0.5, 1.0])
        sizes = [len(layer) for layer in scores]
        goes = round(share * sum(sizes))
        fewest = [max(1, size - round(cap * size)) for size in sizes]
        if goes > sum(sizes) - sum(fewest):
            with pytest.raises(UserError, match=f"no more than {sum(sizes) - sum(fewest)} can go"):
                kept(scores, share, scope, floor=floor, cap=cap)
            refused += 1
            continue
        tensors = [torch.tensor(layer, dtype=torch.float64) for layer in scores]
        ranked = scores
        if scope == "global_normalised":
            ranked = [
                [score / (math.fsum(layer) / len(layer)) if any(layer) else 0.0 for score in layer]
                for layer in scores
            ]
        expected = by_hand(ranked, goes, fewest, [int(floor * size) for size in sizes])
        found = select_units(tensors, share, scope, floor=floor, cap=cap)
        assert [mask.int().tolist() for mask in found] == expected
    assert 10 < refused < 200


def test_random_layers_one_by_one() -> None:
    drawn = random.Random(4)
    for _ in range(200):
        scores = [
            [drawn.choice([0.0, 1.0, drawn.random()]) for _ in range(drawn.randint(1, 9))]
            for _ in range(3)
        ]
        share = drawn.choice([0.0, 0.5, 0.97, drawn.random() * 0.98])
        expected = [
            by_hand([layer], min(round(share * len(layer)), len(layer) - 1), [1], [0])[0]
            for layer in scores
        ]
        found = select_units(
            [torch.tensor(layer, dtype=torch.float64) for layer in scores], share, "local"
        )
        assert [mask.int().tolist() for mask in found] == expected


def test_counts_are_rounded_and_one_unit_stays() -> None:
    assert [removed_count(16, share) for share in (0.0, 0.1, 0.9, 0.98, 1.0)] == [0, 2, 14, 15, 15]
    assert removed_count(10, 0.4999999999999999) == 5
    assert removed_count(1, 0.9) == 0 and removed_count(0, 0.5) == 0


def test_a_cap_freezes_a_layer_and_others_make_up_for_it() -> None:
    scores = [[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]
    assert kept(scores, 0.5, "global") == [[0, 0, 0, 1], [0, 1, 1, 1]]
    assert kept(scores, 0.5, "global", cap=0.5) == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert kept(scores, 0.25, "global", floor=0.25) == [[0, 1, 1, 1], [0, 1, 1, 1]]


def test_normalised_scores_do_not_depend_on_the_scale_of_a_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(n, generator=generator) for n in (8, 5, 12)]
    scaled = [scores[0] * 1024, scores[1] / 4096, scores[2]]
    plain = select_units(scores, 0.5, "global_normalised")
    assert all(map(torch.equal, plain, select_units(scaled, 0.5, "global_normalised")))
    with_scale = select_units(scaled, 0.5, "global")
    assert not all(map(torch.equal, plain, with_scale))


def test_a_layer_without_any_score_goes_first() -> None:
    scores = [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
    assert kept(scores, 1 / 3, "global_normalised") == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("scope", SCOPES)
def test_permuted_units_are_chosen_alike(scope: str) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = [torch.rand(n, generator=generator) for n in (8, 5, 12)]
    orders = [torch.randperm(len(each), generator=generator) for each in scores]
    plain = select_units(scores, 0.4, scope)
    moved = select_units([each[order] for each, order in zip(scores, orders)], 0.4, scope)
    assert all(mask[order].equal(other) for mask, order, other in zip(plain, orders, moved))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scope", SCOPES)
def test_any_precision_and_memory_layout(scope: str, dtype: torch.dtype) -> None:
    scores = torch.rand(3, 40, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = select_units(list(scores), 0.3, scope)
    widened = select_units(list(scores.double()), 0.3, scope)
    strided = select_units(list(scores.t().contiguous().t()), 0.3, scope)
    for mask, other, third in zip(found, widened, strided):
        assert mask.dtype == torch.bool and mask.equal(other) and mask.equal(third)


@pytest.mark.cuda
@pytest.mark.parametrize("scope", SCOPES)
def test_masks_are_those_of_the_processor_and_lie_where_the_scores_do(scope: str) -> None:
    scores = list(torch.rand(3, 4000, generator=torch.Generator().manual_seed(2)).mul(50).floor())
    found = select_units([each.cuda() for each in scores], 0.3, scope)
    for mask, expected in zip(found, select_units(scores, 0.3, scope)):
        assert mask.is_cuda and mask.cpu().equal(expected)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("scope", SCOPES)
def test_not_a_number_is_refused(scope: str, share: float) -> None:
    scores = [torch.rand(4), torch.tensor([1.0, math.nan, 2.0])]
    with pytest.raises(FloatingPointError, match="NaN"):
        select_units(scores, share, scope)
    infinite: list[Tensor] = [torch.rand(4), torch.tensor([1.0, math.inf, 2.0])]
    if scope != "global_normalised":
        assert select_units(infinite, share, scope)[1][1]


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_is_removed_of_nothing(scope: str) -> None:
    assert select_units([], 0.5, scope) == []
    assert all(mask.all() for mask in select_units([torch.zeros(3), torch.ones(2)], 0.0, scope))


@pytest.mark.parametrize(
    "share, scope, bounds, message",
    [
        (1.0, "local", {}, r"share of units is the share removed .*\[0, 1\), not 1.0"),
        (-0.1, "local", {}, "share of units"),
        (0.5, "globall", {}, "unknown scope 'globall'; did you mean 'global'?"),
        (0.2, "global", {"floor": 0.3}, "share of 0.2 does not lie between .*lower the floor"),
        (0.99, "local", {}, "share of 0.99 does not lie between .* 0.0 and 0.98; .*raise the cap"),
        (0.5, "global", {"floor": -0.1}, "floor of each layer"),
        (0.5, "global", {"floor": 0.6, "cap": 0.5}, "cap of each layer must lie between"),
        (0.5, "global", {"cap": 1.1}, "cap of each layer must lie between"),
        (0.9, "global", {}, "removes 11 of 12 units, but no more than 9 can go with a cap of 0.98"),
    ],
)
def test_refusals(share: float, scope: str, bounds: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        select_units([torch.rand(4)] * 3, share, scope, **bounds)
    assert "\n" not in str(refused.value)
