"""The parametrization: its product, its gradient, and what it looks like in checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import MaskedToy, toy_batch, toy_loss

from speechprune.masking.injection import inject, masked_tensors, remove
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.masked_weight import MaskedWeight
from speechprune.masking.policies import POLICIES


def masked_linear(seed: int = 0, **options: Any) -> tuple[nn.Linear, MaskedWeight]:
    """A layer (6 -> 4) with a mask of everything, and the parametrization."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(6, 4)
    masked = MaskedWeight(
        POLICIES.build("s3router", **options), linear.weight, "fc1.weight", 0.5, 0
    )
    inject(linear, "weight", masked)
    return linear, masked


def original(linear: nn.Linear) -> Tensor:
    return linear.parametrizations.weight.original  # type: ignore[union-attr]


def random_mask(seed: int, shape: tuple[int, ...] = (4, 6)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.int32)


@pytest.mark.parametrize("contiguous", [True, False])
def test_the_weight_is_the_product_however_masks_follow_each_other(contiguous: bool) -> None:
    """Patching what flipped is, bit for bit, what multiplying anew gives: no -0.0, no NaN."""
    linear, masked = masked_linear()
    values = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    values[0, 0], values[1, 1], values[2, 2] = torch.inf, -torch.inf, -0.0
    original(linear).data = values.t().contiguous() if contiguous else values.t()
    for seed in range(6):
        masked.choose(random_mask(seed), original(linear))
        expected = torch.where(random_mask(seed), original(linear), torch.zeros(()))
        assert torch.equal(bits(linear.weight), bits(expected))
    masked.choose(random_mask(9))
    assert torch.equal(linear.weight, torch.where(random_mask(9), original(linear), 0.0))


def test_the_product_is_computed_once_per_mask() -> None:
    linear, masked = masked_linear()
    masked.choose(random_mask(1), original(linear))
    first = linear.weight
    assert linear.weight.data_ptr() == first.data_ptr()
    assert linear(torch.ones(1, 6)).shape == (1, 4)
    assert linear.weight.data_ptr() == first.data_ptr()


def test_choose_counts_flips_and_not_the_first_mask() -> None:
    linear, masked = masked_linear()
    assert masked.unselected
    assert int(masked.choose(random_mask(1), original(linear))) == 0
    assert not masked.unselected
    expected = int((random_mask(1) ^ random_mask(2)).sum())
    assert int(masked.choose(random_mask(2))) == expected
    assert linear.weight.shape == (4, 6)
    assert int(masked.choose(random_mask(1), original(linear))) == expected
    assert int(masked.choose(random_mask(1), original(linear))) == 0


@pytest.mark.parametrize("granularity", ["weight", "row", "column"])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_score_gradients_are_straight_through(granularity: str, sigmoid: bool) -> None:
    """dL/dscores = dL/dw * weight * sign(scores), for removed connections too."""
    linear, masked = masked_linear(granularity=granularity, sigmoid=sigmoid)
    original(linear).requires_grad_(True)
    scores = masked.scores
    mask = random_mask(3, tuple(scores.shape))
    masked.choose(mask, original(linear))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    linear(x).square().sum().backward()

    weight = (original(linear) * mask).detach().requires_grad_(True)
    nn.functional.linear(x, weight, linear.bias).square().sum().backward()
    expected = weight.grad * original(linear).detach()
    if granularity != "weight":
        expected = expected.sum(1 if granularity == "row" else 0, keepdim=True)
    expected = expected * scores.detach().sign()
    if sigmoid:
        gate = scores.detach().abs().sigmoid()
        expected = expected * gate * (1 - gate)
    torch.testing.assert_close(scores.grad, expected)
    torch.testing.assert_close(original(linear).grad, weight.grad * mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_sees_an_ordinary_weight(dtype: torch.dtype) -> None:
    """In a training loop of one's own: half precision products, masks and gradients in float32."""
    linear, masked = masked_linear()
    original(linear).requires_grad_(True)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    for seed in (3, 4):
        linear.zero_grad()
        mask = random_mask(seed)
        weight = (original(linear) * mask).detach().requires_grad_(True)
        with torch.autocast("cpu", dtype):
            masked.choose(mask, original(linear))
            found, expected = linear(x), nn.functional.linear(x, weight, linear.bias)
        assert found.dtype == dtype and torch.equal(found, expected)
        assert torch.equal(linear.weight, weight) and linear.weight.dtype == torch.float32
        found.float().square().sum().backward()
        expected.float().square().sum().backward()
        torch.testing.assert_close(original(linear).grad, weight.grad * mask)
        gradient = weight.grad * original(linear).detach() * masked.scores.detach().sign()
        torch.testing.assert_close(masked.scores.grad, gradient)


def test_gradients_of_micro_batches_add_up() -> None:
    linear, masked = masked_linear()
    masked.choose(random_mask(3), original(linear))
    batches = [torch.full((2, 6), value) for value in (1.0, 2.0)]
    alone = []
    for x in batches:
        linear(x).square().sum().backward()
        alone.append(masked.scores.grad.clone())
        masked.scores.grad = None
    for x in batches:
        linear(x).square().sum().backward()
    torch.testing.assert_close(masked.scores.grad, alone[0] + alone[1])


def test_a_backward_pass_never_uses_a_later_mask() -> None:
    linear, masked = masked_linear()
    masked.choose(random_mask(1), original(linear))
    loss = linear(torch.ones(1, 6, requires_grad=True)).sum()
    masked.choose(random_mask(2), original(linear))
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


def test_training_goes_on_after_inference_mode() -> None:
    linear, masked = masked_linear()
    with torch.inference_mode():
        linear(torch.ones(1, 6))
    linear(torch.ones(1, 6)).sum().backward()
    assert masked.scores.grad is not None


def test_conversion_reaches_weight_scores_and_product() -> None:
    linear, masked = masked_linear()
    masked.choose(random_mask(1), original(linear))
    expected = linear.weight.detach().clone()
    linear.to(torch.bfloat16)
    assert linear.weight.dtype == masked.scores.dtype == torch.bfloat16
    assert masked.mask.dtype == torch.bool
    assert torch.equal(linear.weight, expected.bfloat16())


def test_scores_are_those_of_name_and_seed_wherever_they_start() -> None:
    """The global generator is neither read nor moved, so every rank starts alike."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = masked_linear()[1].scores
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(masked_linear()[1].scores, first)
    policy, weight = POLICIES.build("s3router"), nn.Linear(6, 4).weight
    others = [
        MaskedWeight(policy, weight, name, 0.5, seed).scores
        for name, seed in (("fc2.weight", 0), ("fc1.weight", 1))
    ]
    assert not any(torch.equal(first, other) for other in others)
    assert not MaskedWeight(policy, weight, "fc1.weight", 0.5, 0, initialise=False).scores.any()


def test_removal_leaves_an_ordinary_parameter() -> None:
    linear, masked = masked_linear()
    masked.choose(random_mask(4), original(linear))
    expected = linear.weight.detach().clone()
    for trainable in (False, True):
        twin, twin_masked = masked_linear()
        original(twin).requires_grad_(trainable)
        twin_masked.choose(random_mask(4))
        remove(twin, "weight")
        assert type(twin) is nn.Linear and masked_tensors(twin) == {}
        assert isinstance(twin.weight, nn.Parameter) and twin.weight.requires_grad == trainable
        assert torch.equal(twin.weight, expected)
        assert {name for name, _ in twin.named_parameters()} == {"weight", "bias"}
        assert set(twin.state_dict()) == {"weight", "bias"}


def test_a_forward_pass_reads_masks_where_modules_are_never_called() -> None:
    """Attention reads `in_proj_weight` and `out_proj.weight`; both give gradient through masks."""
    model = MaskedToy(POLICIES.build("s3router"))
    model.mask_controller.set_num_updates(0)
    called = []
    model.attention.out_proj.register_forward_hook(lambda *_: called.append("out_proj"))
    model.gate.register_forward_hook(lambda *_: called.append("gate"))
    before = model(toy_batch()[0])
    toy_loss(model).backward()
    assert not called
    for name in ("attention.in_proj_weight", "attention.out_proj.weight", "gate.weight"):
        assert model.scores()[name].grad.any(), name
        site = next(site for site in model.sites if site.name == name)
        weight = original_weight(site)
        kept = masked_weight(site).mask
        masked_weight(site).choose(torch.zeros_like(kept), weight)
        assert not torch.allclose(model(toy_batch()[0]), before), name
        masked_weight(site).choose(kept, weight)
