"""Lagrangian: its target, its term and its ascending multipliers."""

from __future__ import annotations

import pytest
import torch

from speechprune.errors import UserError
from speechprune.slimming.lagrangian import Lagrangian


def test_target_rises_linearly_and_stays() -> None:
    lagrangian = Lagrangian(0.75, 5000)
    found = []
    for update in (0, 1, 2500, 5000, 9000):
        lagrangian.update = update
        found.append(lagrangian.current_target)
    assert found == pytest.approx([0.0, 0.00015, 0.375, 0.75, 0.75], abs=1e-12)
    assert Lagrangian(0.75, 0).current_target == 0.75


def test_term_and_gradients_are_those_of_the_formula() -> None:
    lagrangian = Lagrangian(0.6, 0)
    assert lagrangian.multipliers.tolist() == [0.0, 0.0]
    with torch.no_grad():
        lagrangian.scaled_multipliers.copy_(torch.tensor([-0.03, 0.02]))
    share = torch.tensor(0.4, requires_grad=True)
    term = lagrangian(share)
    term.backward()
    assert term.dtype == torch.float32 and term.shape == ()
    assert term.item() == pytest.approx(-3.0 * -0.2 + 2.0 * 0.04)
    assert share.grad is not None and lagrangian.scaled_multipliers.grad is not None
    assert share.grad.item() == pytest.approx(-3.0 + 2 * 2.0 * -0.2)
    # Of the opposite sign: they ascend.
    assert lagrangian.scaled_multipliers.grad.tolist() == pytest.approx([0.2, -0.04])


def test_multipliers_climb_as_under_an_adam_of_their_own() -> None:
    """50 steps at 2e-4 against lambdas with a learning rate of -0.02, as DPHuBERT has them."""
    lagrangian = Lagrangian(0.5, 30)
    optimizer = torch.optim.Adam(lagrangian.parameters(), lr=2e-4)
    lambdas = [torch.nn.Parameter(torch.tensor(0.0)) for _ in range(2)]
    ascent = torch.optim.Adam(lambdas, lr=0.02)
    # torch refuses to build an optimizer of a negative learning rate, not to use one.
    ascent.param_groups[0]["lr"] = -0.02
    for update in range(50):
        lagrangian.update = update
        share = torch.tensor(0.3 * update / 50)
        optimizer.zero_grad()
        lagrangian(share).backward()
        optimizer.step()
        excess = share - 0.5 * min(1.0, update / 30)
        ascent.zero_grad()
        (lambdas[0] * excess + lambdas[1] * excess**2).backward()
        ascent.step()
    expected = [parameter.item() for parameter in lambdas]
    assert expected[0] < -0.5 and expected[1] > 0.5
    assert lagrangian.multipliers.tolist() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    lagrangian = Lagrangian(0.5, 0).to(dtype)
    with torch.no_grad():
        lagrangian.scaled_multipliers.fill_(0.015625)
    term = lagrangian(torch.tensor(0.4999))
    assert term.dtype == torch.float32
    assert term.item() == pytest.approx(1.5625 * (-1e-4 + 1e-8), rel=1e-3)


@pytest.mark.parametrize(
    "target,warmup,rate,message",
    [
        (1.0, 10, 1.0, "share to remove"),
        (-0.1, 10, 1.0, "share to remove"),
        (float("nan"), 10, 1.0, "share to remove"),
        (0.5, -1, 1.0, "updates, not -1"),
        (0.5, 10, 0.0, "rate of gates"),
    ],
)
def test_impossible_settings_are_refused(
    target: float, warmup: int, rate: float, message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        Lagrangian(target, warmup, rate=rate)
    assert "\n" not in str(refused.value)
