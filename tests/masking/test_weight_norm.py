"""A mask on a weight that weight norm makes: after the norm, and gone without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.policies import POLICIES
from speechprune.masking.schedule import ConstantSchedule
from speechprune.masking.sites import Site, before_weight_norm


def convolution(dimension: int = 2) -> nn.Conv1d:
    """A convolution under weight norm whose magnitudes differ from the norms, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.utils.weight_norm(nn.Conv1d(8, 12, 5, groups=2), dim=dimension)
        with torch.no_grad():
            module.weight_g.mul_(torch.rand_like(module.weight_g) + 0.5)
    return module.requires_grad_(False)


def site_of(module: nn.Module) -> Site:
    return Site("conv.weight", "pos.conv", None, module, "weight")


def masked(module: nn.Module, policy: str = "s3router", **options: Any) -> MaskController:
    rule = POLICIES.build(policy)
    return MaskController([site_of(module)], rule, ConstantSchedule(0.4), **options)


def weight_by_hand(module: nn.Module) -> Tensor:
    """magnitude * direction / |direction|, from plain parameters."""
    norm = module.weight_v.double().square().sum((0, 1), keepdim=True).sqrt()
    return (module.weight_g.double() * module.weight_v.double() / norm).float()


def test_the_mask_is_put_on_what_the_norm_makes() -> None:
    module = convolution()
    dense = weight_by_hand(module)
    audio = torch.randn(2, 8, 30, generator=torch.Generator().manual_seed(1))
    controller = masked(module)
    controller.set_num_updates(0)
    (site,) = controller.sites
    mask = masked_weight(site).mask
    assert 0 < int(mask.sum()) < mask.numel()
    torch.testing.assert_close(original_weight(site), dense)
    torch.testing.assert_close(module.weight, dense * mask)
    expected = nn.functional.conv1d(audio, dense * mask, module.bias, groups=2)
    torch.testing.assert_close(module(audio), expected)


def test_weights_of_now_are_masked() -> None:
    """The hook's weight is of the last forward pass; parameters may have been loaded since."""
    module, other = convolution(), convolution()
    with torch.no_grad():
        other.weight_v.copy_(other.weight_v.flip(0))
    module.load_state_dict(other.state_dict())
    controller = masked(module)
    torch.testing.assert_close(original_weight(controller.sites[0]), weight_by_hand(other))


@pytest.mark.parametrize("trains", [False, True])
def test_both_parts_train_or_stay(trains: bool) -> None:
    module = convolution()
    controller = masked(module, trains_weights=trains)
    controller.train().set_num_updates(0)
    module(torch.randn(2, 8, 30)).square().sum().backward()
    parts = {n: p for n, p in module.named_parameters() if "original" in n}
    assert len(parts) == 2
    assert all(p.requires_grad == trains and (p.grad is not None) == trains for p in parts.values())
    scores = masked_weight(controller.sites[0]).scores
    assert scores is not None and scores.grad is not None and scores.grad.any()


def test_a_trained_weight_is_masked_anew() -> None:
    module = convolution()
    controller = masked(module, trains_weights=True)
    controller.set_num_updates(0)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(2.0)
    controller.set_num_updates(1)
    torch.testing.assert_close(module.weight, 2 * before)


def test_checkpoints_have_plain_keys_and_load_into_masks() -> None:
    module, plain = convolution(), convolution().state_dict()
    controller = masked(module)
    controller.settle()
    state = module.state_dict()
    assert set(state) == {*plain, "scores", "weight_mask"}
    assert all(torch.equal(state[key], tensor) for key, tensor in plain.items())
    other = convolution()
    again = masked(other, seed=5)
    other.load_state_dict(state)
    again.loaded()
    assert torch.equal(other.weight, module.weight)
    other.load_state_dict(plain)  # starts scores anew
    assert torch.equal(original_weight(again.sites[0]), original_weight(controller.sites[0]))


@pytest.mark.parametrize("dimension", [0, 2])
def test_folding_leaves_weight_norm_and_the_masked_weight(dimension: int) -> None:
    module = convolution(dimension)
    controller = masked(module)
    module.requires_grad_(False)
    scores = masked_weight(controller.sites[0]).scores
    assert scores is not None
    scores.select(dimension, 1).zero_()  # so that a norm is zero
    controller.settle()
    audio = torch.randn(2, 8, 30, generator=torch.Generator().manual_seed(1))
    weight, expected = module.weight.clone(), module(audio)
    controller.fold()
    assert set(module.state_dict()) == set(convolution().state_dict())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert torch.equal(module(audio), expected)
    loaded = convolution(dimension)
    loaded.load_state_dict(module.state_dict())
    assert torch.equal(loaded(audio), expected)
    assert torch.equal(loaded.weight, weight) and weight.isfinite().all()


@pytest.mark.parametrize("policy", ["parp", "gradual_magnitude", "movement"])
def test_policies_that_write_weights_mask_the_direction(policy: str) -> None:
    module = convolution()
    with pytest.raises(UserError, match="before_weight_norm"):
        masked(module, policy)
    site = before_weight_norm(site_of(module))
    assert (site.name, site.tensor) == ("conv.weight_v", "weight_v")
    controller = MaskController([site], POLICIES.build(policy), ConstantSchedule(0.4))
    controller.settle()
    state = module.state_dict()
    assert not state["weight_v"][~masked_weight(site).mask].any()
    plain = nn.Conv1d(8, 12, 5)
    assert before_weight_norm(site_of(plain)).name == "conv.weight"
