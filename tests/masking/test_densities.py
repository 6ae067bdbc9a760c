"""How many connections are kept: per site, over all, along a schedule, and as it is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy import (
    MaskedToy,
    SignDescent,
    Toy,
    kept_of,
    top,
    toy_sites,
    train,
    train_update,
)

from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.policies import POLICIES, MaskPolicy
from speechprune.masking.schedule import ConstantSchedule, Schedule
from speechprune.masking.sites import Site


class Falling(Schedule):
    """A tenth less at each update, down to a half."""

    def density(self, site: Site, update: int) -> float:
        return max(0.5, 1.0 - 0.1 * update)


class Magnitude(MaskPolicy):
    """Keeps the largest weights: no scores."""

    trains_weights = True

    def importance(
        self, weight: Tensor, scores: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        return weight.abs()


class FrozenMagnitude(Magnitude):
    trains_weights = False


def s3router(**options: Any) -> MaskPolicy:
    return POLICIES.build("s3router", **options)


def densities(model: MaskedToy) -> dict[str, float]:
    return {name: mask.float().mean().item() for name, mask in model.masks().items()}


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan")])
def test_a_density_that_is_no_share_is_refused(density: float) -> None:
    with pytest.raises(UserError, match=r"\(0, 1\]"):
        ConstantSchedule(density)
    with pytest.raises(UserError, match=r"\(0, 1\]"):
        ConstantSchedule(0.5, {"fc1.weight": density})


@pytest.mark.parametrize("scope", ["site", "global"])
def test_ties_go_to_the_lower_index_and_the_earlier_site(scope: str) -> None:
    model = MaskedToy(s3router(init_score="one"), 0.3, scope=scope)
    model.mask_controller.set_num_updates(0)
    masks = [mask.flatten() for mask in model.masks().values()]
    for mask in [torch.cat(masks)] if scope == "global" else masks:
        kept = mask.nonzero().flatten().tolist()
        assert kept == list(range(kept_of(mask.numel(), 0.3)))


def test_global_ranking_compares_sites() -> None:
    """The kept are the largest of all; sites share the density unequally."""
    model = MaskedToy(s3router(init_score="weight_magnitude_with_scale"), 0.4, scope="global")
    model.mask_controller.set_num_updates(0)
    weights = torch.cat([weight.flatten() for weight in model.originals().values()])
    masks = torch.cat([mask.flatten() for mask in model.masks().values()])
    assert torch.equal(masks, top(weights.abs(), kept_of(weights.numel(), 0.4)))
    assert len(set(densities(model).values())) > 1


def test_sites_have_densities_of_their_own() -> None:
    model = MaskedToy(s3router())
    model.mask_controller.fold()
    model.mask_controller = MaskController(
        toy_sites(model), s3router(), ConstantSchedule(0.5, {"fc1.weight": 0.25, "fc2.weight": 1.0})
    )
    model.eval()
    counts = {name: int(mask.sum()) for name, mask in model.masks().items()}
    assert counts["fc1.weight"] == 288 * 0.25
    assert counts["fc2.weight"] == 288
    assert counts["gate.weight"] == 144 * 0.5


def test_one_global_ranking_needs_one_density() -> None:
    schedule = ConstantSchedule(0.5, {"fc1.weight": 0.25})
    controller = MaskController(toy_sites(Toy()), s3router(), schedule, scope="global")
    with pytest.raises(UserError, match="one density"):
        controller.set_num_updates(0)


@pytest.mark.parametrize("policy", [s3router(), Magnitude(), FrozenMagnitude()])
def test_density_follows_the_schedule(policy: MaskPolicy) -> None:
    """At each update, and in evaluation, where it is that of the update to come."""
    model = MaskedToy(policy)
    model.mask_controller.schedule = Falling()
    optimizer = SignDescent(model)
    for update in range(7):
        model.train()
        model.mask_controller.set_num_updates(update)
        assert_density(model, max(0.5, 1.0 - 0.1 * update))
        train_update(model, optimizer, update)
        model.eval()
        assert_density(model, max(0.5, 0.9 - 0.1 * update))


def assert_density(model: MaskedToy, density: float) -> None:
    for name, mask in model.masks().items():
        assert int(mask.sum()) == kept_of(mask.numel(), density), name


def test_stats_tell_density_and_flips() -> None:
    model = MaskedToy(s3router(), 0.3)
    controller, optimizer = model.mask_controller, SignDescent(model)
    controller.set_num_updates(0)
    assert int(controller.stats()["flipped"]) == 0
    for update in range(4):
        before = model.masks()
        train_update(model, optimizer, update)
        if update % 2:
            model.eval().train()  # a validation chooses early; the log still tells the flips
            model.eval().train()
        controller.set_num_updates(update + 1)
        after = model.masks()
        flips = sum(int((before[name] ^ after[name]).sum()) for name in after)
        assert flips > 0
        kept = sum(int(mask.sum()) for mask in after.values())
        entries = sum(mask.numel() for mask in after.values())
        stats = controller.stats()
        assert int(stats["flipped"]) == flips
        assert stats["density"] == pytest.approx(kept / entries, abs=1e-12)


def test_density_of_shared_scores_counts_weights() -> None:
    model = MaskedToy(s3router(granularity="row"), 0.3)
    model.eval()
    kept = sum(int(mask.sum()) for mask in model.mask_controller.mask_set().values())
    entries = sum(weight.numel() for weight in model.originals().values())
    assert model.mask_controller.stats()["density"] == pytest.approx(kept / entries, abs=1e-12)


@pytest.mark.parametrize("scope", ["site", "global"])
def test_frozen_scores_keep_their_masks_and_the_density(scope: str) -> None:
    model = MaskedToy(s3router(), 0.4, scope=scope)
    model.scores()["fc1.weight"].requires_grad_(False)
    with torch.no_grad():
        model.scores()["fc1.weight"].mul_(3.0)
    model.mask_controller.set_num_updates(0)
    before = model.masks()
    train(model, 4).eval()
    after = model.masks()
    assert torch.equal(after["fc1.weight"], before["fc1.weight"])
    assert not torch.equal(after["fc2.weight"], before["fc2.weight"])
    kept, entries = (
        sum(f(m) for m in after.values()) for f in (lambda m: int(m.sum()), torch.numel)
    )
    assert kept == (kept_of(entries, 0.4) if scope == "global" else sum_of_parts(after, 0.4))


def sum_of_parts(masks: dict[str, Tensor], density: float) -> int:
    return sum(kept_of(mask.numel(), density) for mask in masks.values())
