"""What every backbone promises of heads and channels: see `SLIMMING_CONTRACT`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from backbone_contract import ROLES, Family, weighted
from torch import Tensor, nn

from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import masked_weight
from speechprune.masking.policies import POLICIES
from speechprune.masking.schedule import ConstantSchedule
from speechprune.slimming.cutting import head_entries
from speechprune.slimming.plan import KeptUnits, SlimPlan
from speechprune.slimming.removable import fold_constants, kept_without, removable_units

LAYERS, HEADS, CHANNELS = 3, 4, 64


def random_plan(seed: int, layers: int = LAYERS) -> list[KeptUnits]:
    """Any numbers of heads and channels, different in each layer."""
    generator = np.random.default_rng(seed)

    def some(of: int) -> tuple[int, ...]:
        count = generator.integers(1, of + 1)
        return tuple(sorted(generator.choice(of, count, replace=False).tolist()))

    return [KeptUnits(some(HEADS), some(CHANNELS)) for _ in range(layers)]


@torch.no_grad()
def heard(family: Family, model: nn.Module, samples: int | None = None) -> list[Tensor]:
    """The features of three utterances: of equal length, and with padding, which is left out."""
    samples = samples or family.sources.lengths[0]
    source = family.source(3, samples)
    padding = torch.zeros(source.shape, dtype=torch.bool)
    padding[1, samples // 2 :] = True
    alone, _ = family.backbone.features(model, source, None)
    padded, frames = family.backbone.features(model, source, padding)
    assert frames is not None and frames.any()
    return [alone, padded[~frames]]


def assert_equal_features(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(found, expected):
        assert other.std() > 0.01
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@torch.no_grad()
def zero_the_rest(family: Family, model: nn.Module, kept: Sequence[KeptUnits]) -> None:
    """What ``kept`` lacks writes nothing any more."""
    for units, keeps in zip(family.backbone.units(model), kept):
        heads = sorted(set(range(units.heads)) - set(keeps.heads))
        channels = sorted(set(range(units.channels)) - set(keeps.channels))
        if heads:
            units.out.weight[:, head_entries(heads, units.head_size)] = 0
        units.second.weight[:, channels] = 0


def units_are_the_layers_own(family: Family) -> None:
    model = family.build(layers=LAYERS)
    units = family.backbone.units(model)
    assert [layer.layer for layer in units] == list(range(LAYERS))
    assert {(layer.heads, layer.channels, layer.head_size) for layer in units} == {(4, 64, 8)}
    modules = {site.module for site in family.backbone.sites(model, ROLES)}
    for layer, own in zip(family.backbone.layers(model), units):
        linear = (own.query, own.key, own.value, own.out, own.first, own.second)
        assert len(set(linear)) == 6 and set(linear) <= modules & set(layer.modules())
    assert family.backbone.slim_plan(model) is None


def slim_models_give_what_zeroed_ones_give(family: Family) -> None:
    for seed, samples in enumerate((*family.sources.lengths, family.sources.lengths[0])):
        kept = random_plan(seed)
        model = family.build(layers=LAYERS).requires_grad_(False)
        whole = heard(family, model, samples)
        zero_the_rest(family, model, kept)
        expected = heard(family, model, samples)
        assert not torch.allclose(expected[0], whole[0], atol=1e-3)
        family.backbone.slim(model, kept)
        assert_equal_features(heard(family, model, samples), expected)
        shapes = [(u.heads, u.channels) for u in family.backbone.units(model)]
        assert shapes == [(len(keeps.heads), len(keeps.channels)) for keeps in kept]


def slim_models_can_be_slimmed_again(family: Family) -> None:
    """Their plan has the numbers of the first heads and channels."""
    first = [KeptUnits((0, 2, 3), tuple(range(1, 64, 2)))] * LAYERS
    later = [KeptUnits((1, 2), tuple(range(0, 32, 3)))] * LAYERS
    both = KeptUnits((2, 3), tuple(range(1, 64, 6)))
    twice, once = (family.build(layers=LAYERS).requires_grad_(False) for _ in range(2))
    family.backbone.slim(twice, first)
    family.backbone.slim(twice, later)
    family.backbone.slim(once, [both] * LAYERS)
    plan = SlimPlan(family.backbone.fairseq_name, HEADS, CHANNELS, (both,) * LAYERS)
    assert family.backbone.slim_plan(twice) == family.backbone.slim_plan(once) == plan
    assert torch.equal(
        family.output(twice),
        family.output(once),
    )


@torch.no_grad()
def constants_go_to_biases(family: Family) -> None:
    """Units that read nothing, of biases of some size, go and leave the output as it is."""
    model = family.build(layers=LAYERS).requires_grad_(False)
    for units in family.backbone.units(model):
        units.first.bias.normal_(generator=torch.Generator().manual_seed(units.layer))
        units.value.bias.normal_(generator=torch.Generator().manual_seed(units.layer))
        units.first.weight[units.layer : 30] = 0
        units.value.weight[head_entries([units.layer], units.head_size)] = 0
    expected = heard(family, model)
    units = family.backbone.units(model)
    kept = [kept_without(layer, removable_units(layer)) for layer in units]
    assert [len(keeps.heads) for keeps in kept] == [3] * LAYERS
    assert [len(keeps.channels) for keeps in kept] == [34, 35, 36]
    for layer, keeps in zip(units, kept):
        fold_constants(layer, keeps)
    family.backbone.slim(model, kept)
    assert_equal_features(heard(family, model), expected)


def slim_models_learn(family: Family) -> None:
    model = family.build(layers=LAYERS)
    family.backbone.slim(model, random_plan(0))
    model.train().requires_grad_(True)
    torch.manual_seed(0)  # by which no layer is skipped, of models that skip some
    features, _ = family.backbone.features(model, family.source(), None)
    weighted(features).backward()
    for units in family.backbone.units(model):
        for linear in (units.query, units.value, units.out, units.first, units.second):
            gradient = linear.weight.grad
            assert gradient is not None and gradient.isfinite().all() and gradient.any()
            assert gradient.shape == linear.weight.shape


def slim_models_take_masks(family: Family) -> None:
    """Masks are live, learn, and are folded, on every site."""
    model = family.build(layers=LAYERS)
    family.backbone.slim(model, random_plan(1))
    sites = family.backbone.sites(model, ROLES)
    controller = MaskController(sites, POLICIES.build("s3router"), ConstantSchedule(0.7))
    controller.train().set_num_updates(0)
    model.train()
    torch.manual_seed(0)  # by which no layer is skipped, of models that skip some
    features, _ = family.backbone.features(model, family.source(), None)
    weighted(features).backward()
    for site in sites:
        gradient = masked_weight(site).scores.grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), site.name
    model.eval()
    controller.eval()
    controller.settle()
    expected = family.output(model)
    controller.fold()
    assert torch.equal(family.output(model), expected)


def a_fresh_model_of_a_slim_one_has_its_shape(family: Family) -> None:
    model = family.build(layers=LAYERS)
    family.backbone.slim(model, random_plan(2))
    fresh, again = (family.backbone.fresh(model, 5) for _ in range(2))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in fresh.state_dict().items()} == shapes
    assert family.backbone.slim_plan(fresh) == family.backbone.slim_plan(model)
    assert torch.equal(
        family.output(fresh),
        family.output(again),
    )
    assert not torch.allclose(
        family.output(fresh),
        family.output(model),
        atol=1e-3,
    )


def dropped_layers_take_their_plan_along(family: Family) -> None:
    model = family.build(layers=LAYERS).requires_grad_(False)
    kept = random_plan(3)
    family.backbone.slim(model, kept)
    family.backbone.drop_layers(model, [1])
    plan = family.backbone.slim_plan(model)
    assert plan is not None and plan.kept == (kept[0], kept[2])
    short = family.build(layers=LAYERS).requires_grad_(False)
    family.backbone.drop_layers(short, [1])
    family.backbone.slim(short, [kept[0], kept[2]])
    assert torch.equal(
        family.output(model),
        family.output(short),
    )


def slim_state_dicts_load(family: Family) -> None:
    """Into a model of the same plan, under plain names; not into a whole one."""
    kept = random_plan(4)
    model, other = (family.build(layers=LAYERS).requires_grad_(False) for _ in range(2))
    names = set(model.state_dict())
    for slim in (model, other):
        family.backbone.slim(slim, kept)
    assert set(model.state_dict()) == names
    for tensor in other.state_dict().values():
        tensor.zero_()
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(
        family.output(other),
        family.output(model),
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        family.build(layers=LAYERS).load_state_dict(model.state_dict())


def impossible_cuts_are_refused(family: Family) -> None:
    model = family.build(layers=2)
    whole = KeptUnits.all(HEADS, CHANNELS)
    before = family.output(model)
    for kept in (
        [whole],
        [whole, KeptUnits((4,), (0,))],
        [KeptUnits((0,), (64,)), whole],
    ):
        with pytest.raises(UserError, match="slim plan") as refused:
            family.backbone.slim(model, kept)
        assert "\n" not in str(refused.value)
        assert family.backbone.slim_plan(model) is None
    assert torch.equal(family.output(model), before)


SLIMMING_CONTRACT: Sequence[Callable[[Family], None]] = (
    units_are_the_layers_own,
    slim_models_give_what_zeroed_ones_give,
    slim_models_can_be_slimmed_again,
    constants_go_to_biases,
    slim_models_learn,
    slim_models_take_masks,
    a_fresh_model_of_a_slim_one_has_its_shape,
    dropped_layers_take_their_plan_along,
    slim_state_dicts_load,
    impossible_cuts_are_refused,
)
