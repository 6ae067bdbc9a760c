"""Parameters that hold a scaled value: they move as under a learning rate of their own."""

from __future__ import annotations

import pytest
import torch

from speechprune.errors import UserError
from speechprune.slimming.rescaling import check_rate, rescaled


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_adam_moves_the_value_as_if_it_had_its_own_learning_rate(sign: float) -> None:
    """50 steps of Adam at 2e-4 against Adam on the value itself at 0.02, down or up."""
    start = torch.linspace(-2.0, 2.0, 9)
    targets = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    theta = torch.nn.Parameter(start / 100.0)
    value = torch.nn.Parameter(start.clone())
    ours = torch.optim.Adam([theta], lr=2e-4)
    theirs = torch.optim.Adam([value], lr=0.02, maximize=sign < 0)
    for target in targets:
        for optimizer, current in ((ours, rescaled(theta, 100.0, sign)), (theirs, value)):
            optimizer.zero_grad()
            (current - target).square().sum().backward()
            optimizer.step()
    assert theta.grad is not None and value.grad is not None
    assert (value - start).abs().min() > 0.02
    assert torch.allclose(100.0 * theta, value, atol=2e-5)
    assert torch.allclose(theta.grad, sign * value.grad, atol=1e-4)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_not_above_0_is_refused(rate: float) -> None:
    with pytest.raises(UserError, match="rate of gates"):
        check_rate(rate)
