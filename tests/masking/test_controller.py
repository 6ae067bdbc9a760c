"""MaskController: when masks are chosen, what stays and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from toy import (
    MaskedToy,
    SignDescent,
    Toy,
    kept_of,
    output,
    toy_batch,
    toy_loss,
    toy_sites,
    train,
    train_update,
)

from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.policies import POLICIES, MaskPolicy
from speechprune.masking.schedule import ConstantSchedule, ProgressiveSchedule


def s3router(**options: Any) -> MaskPolicy:
    return POLICIES.build("s3router", **options)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"scope": "layer"}, "scope 'layer'"),
        ({"every": 0}, "every"),
        ({"every": -3}, "every"),
    ],
)
def test_impossible_options_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        MaskedToy(s3router(), **options)
    assert "\n" not in str(refused.value)


def test_nothing_to_mask_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to mask"):
        MaskController([], s3router(), ConstantSchedule(0.5))


@pytest.mark.parametrize("scope", ["site", "global"])
def test_an_importance_that_is_no_number_stops_the_run(scope: str) -> None:
    model = MaskedToy(s3router(), scope=scope)
    with torch.no_grad():
        model.scores()["fc1.weight"][3, 4] = torch.nan
    with pytest.raises(FloatingPointError):
        model.mask_controller.set_num_updates(0)


def test_mask_set_has_the_shape_of_the_weights_and_its_provenance() -> None:
    for granularity in ("weight", "row", "column"):
        model = MaskedToy(s3router(granularity=granularity), 0.3)
        model.eval()
        found = model.mask_controller.mask_set({"backbone": "toy"})
        assert found.provenance == {"backbone": "toy"}
        assert found.shapes == {name: tuple(w.shape) for name, w in model.originals().items()}
        for name, mask in model.masks().items():
            assert torch.equal(found[name], mask.expand(found[name].shape)), name


def test_modes_of_the_model_reach_the_controller_and_its_state_does_not_grow() -> None:
    model = MaskedToy(s3router())
    assert model.mask_controller.training
    assert model.eval().mask_controller.training is False
    assert model.train().mask_controller.training
    assert not any("mask_controller" in key for key in model.state_dict())
    assert not list(model.mask_controller.parameters())


def test_evaluation_before_any_update_is_sparse() -> None:
    model = MaskedToy(s3router(), 0.2)
    model.eval()
    for name, mask in model.masks().items():
        assert int(mask.sum()) == kept_of(mask.numel(), 0.2), name


def test_evaluating_twice_changes_nothing() -> None:
    model = train(MaskedToy(s3router(), 0.4), 2)
    model.eval()
    first = model.masks()
    with torch.no_grad():
        model.scores()["fc1.weight"].neg_().add_(1.0)
    model.train()
    model.eval()
    assert all(torch.equal(mask, first[name]) for name, mask in model.masks().items())


def test_validation_between_updates_does_not_change_training() -> None:
    """Settling early chooses what the next update would have chosen: runs end bit-equal."""
    ends = []
    for validates in (False, True):
        model = MaskedToy(s3router(), 0.4)
        optimizer = SignDescent(model)
        for update in range(5):
            train_update(model, optimizer, update)
            if validates and update % 2:
                output(model)
        ends.append({name: value.clone() for name, value in model.eval().state_dict().items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("stop", [2, 3])
def test_a_resumed_run_ends_bit_equal(every: int, stop: int) -> None:
    model = MaskedToy(s3router(), 0.4, every=every)
    optimizer = SignDescent(model)
    for update in range(6):
        if update == stop:
            model.mask_controller.settle()
            state = {key: value.clone() for key, value in model.state_dict().items()}
        train_update(model, optimizer, update)
    resumed = MaskedToy(s3router(), 0.4, every=every, seed=8, initialise=False)
    resumed.load_state_dict(state)
    resumed.mask_controller.loaded()
    optimizer = SignDescent(resumed)
    for update in range(stop, 6):
        train_update(resumed, optimizer, update)
    resumed.eval(), model.eval()
    expected = model.state_dict()
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("policy", ["s3router", "gradual_magnitude", "movement", "parp"])
def test_a_skipped_step_repeats_the_update(policy: str) -> None:
    """Half precision skips the step whose gradients overflow, and fairseq may then validate: the
    repeated update has the masks that it had."""
    schedule = ProgressiveSchedule(1.0, 0.2, 0, 4, "linear")
    model = MaskedToy(POLICIES.build(policy), 1.0)
    model.mask_controller.fold()
    model.mask_controller = MaskController(
        toy_sites(model), POLICIES.build(policy), schedule, every=2
    )
    optimizer = SignDescent(model)
    train_update(model, optimizer, 0)
    model.mask_controller.set_num_updates(1)
    read = {site.name: getattr(site.module, site.tensor).clone() for site in model.sites}
    model.eval()
    assert model.mask_controller.stats()["density"] == pytest.approx(0.6, abs=0.02)
    model.train()
    model.mask_controller.set_num_updates(1)
    for site in model.sites:
        assert torch.equal(getattr(site.module, site.tensor), read[site.name]), site.name
    train_update(model, optimizer, 1)
    model.mask_controller.set_num_updates(2)
    assert model.mask_controller.stats()["density"] == pytest.approx(0.6, abs=0.02)


def test_weights_trained_beside_scores_are_read_as_they_are_now() -> None:
    """co_train: each update computes with the weights of the last step, and their gradient is
    masked."""
    model = MaskedToy(s3router(), 0.4)
    for site in model.sites:
        original_weight(site).requires_grad_(True)
    optimizer = SignDescent(model)
    before = model.originals()
    for update in range(3):
        train_update(model, optimizer, update)
        model.mask_controller.set_num_updates(update + 1)
        for site in model.sites:
            expected = original_weight(site) * masked_weight(site).mask
            assert torch.equal(getattr(site.module, site.tensor), expected), site.name
    for site in model.sites:
        assert not torch.equal(original_weight(site), before[site.name])
        gradient = original_weight(site).grad
        assert gradient.any()
    model.zero_grad()
    toy_loss(model).backward()
    for site in model.sites:
        assert not original_weight(site).grad[~masked_weight(site).mask].any()


def test_seeds_make_scores() -> None:
    first, same, other = (
        MaskController(toy_sites(Toy()), s3router(), ConstantSchedule(0.5), seed=seed)
        for seed in (1, 1, 2)
    )
    for one, two, three in zip(first.sites, same.sites, other.sites):
        scores = masked_weight(one).scores
        assert torch.equal(scores, masked_weight(two).scores), one.name
        assert not torch.equal(scores, masked_weight(three).scores), one.name


def test_building_masks_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    MaskController(toy_sites(Toy()), s3router(), ConstantSchedule(0.5)).set_num_updates(0)
    assert torch.equal(torch.rand(4), expected)


def test_a_folded_model_can_go_through_the_loop() -> None:
    model = train(MaskedToy(s3router(), 0.4), 1)
    expected = output(model)
    controller = model.mask_controller
    controller.fold()
    controller.set_num_updates(3)
    controller.settle()
    assert controller.penalty() is None
    assert torch.equal(output(model), expected)
    assert isinstance(model.fc1.weight, nn.Parameter)
    assert model(toy_batch()[0]).shape == (3, 20, 5)
