"""HardConcrete: its distribution, its values in evaluation, and what training sees of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from speechprune.slimming.gates import HardConcrete


def gates(units: int = 50, drop_rate: float = 0.5, seed: int = 0) -> HardConcrete:
    return HardConcrete(units, drop_rate, torch.Generator().manual_seed(seed))


def with_log_alpha(*values: float, size: int = 1) -> HardConcrete:
    gate = HardConcrete(len(values), 0.5, torch.Generator(), size=size)
    with torch.no_grad():
        gate.scaled_log_alpha.copy_(torch.tensor(values) / gate.rate)
    return gate


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-x))


def as_float64(x: torch.Tensor) -> NDArray[np.float64]:
    return x.detach().double().numpy()


@pytest.mark.parametrize("drop_rate,share", [(0.01, 0.998), (0.5, 0.832)])
def test_expected_share_at_the_start_is_that_of_dphubert(drop_rate: float, share: float) -> None:
    gate = gates(3072, drop_rate)
    assert float(gate.expected().detach()) / 3072 == pytest.approx(share, abs=5e-4)
    log_alpha = as_float64(gate.log_alpha)
    assert log_alpha.mean() == pytest.approx(np.log((1 - drop_rate) / drop_rate), abs=1e-3)
    assert log_alpha.std() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("log_alpha", [-3.0, -1.6, 0.0, 1.0])
def test_drawn_gates_are_open_as_often_as_the_probability_says(log_alpha: float) -> None:
    draws = 100_000
    gate = with_log_alpha(*[log_alpha] * draws)
    torch.manual_seed(0)
    gate.draw()
    opened = float((gate() > 0).float().mean())
    probability = sigmoid(np.float64(log_alpha + 2 / 3 * np.log(11.0)))
    deviation = np.sqrt(probability * (1 - probability) / draws)
    assert abs(opened - probability) < 4 * deviation
    assert float(gate.probability_kept()[0].detach()) == pytest.approx(probability, rel=1e-6)


def test_drawn_values_are_those_of_the_formula() -> None:
    gate = with_log_alpha(*np.linspace(-4, 4, 1000).tolist())
    torch.manual_seed(1)
    gate.draw()
    assert gate.noise is not None
    u = as_float64(gate.noise)
    assert 1e-6 <= u.min() and u.max() <= 1 - 1e-6
    s = sigmoid((np.log(u / (1 - u)) + np.linspace(-4, 4, 1000)) / (2 / 3))
    expected = np.clip(1.2 * s - 0.1, 0, 1)
    np.testing.assert_allclose(as_float64(gate()), expected, atol=2e-6)
    assert (
        (expected == 0).any() and (expected == 1).any() and ((0 < expected) & (expected < 1)).any()
    )


def test_gradient_of_log_alpha_is_that_of_the_formula() -> None:
    gate = with_log_alpha(0.3, -0.7)
    gate.noise = torch.tensor([0.45, 0.6])
    gate().sum().backward()
    x = (np.log([0.45 / 0.55, 1.5]) + [0.3, -0.7]) / (2 / 3)
    expected = 1.2 * sigmoid(x) * (1 - sigmoid(x)) / (2 / 3)
    np.testing.assert_allclose(as_float64(gate.scaled_log_alpha.grad), expected, rtol=1e-5)


def test_noise_stays_until_the_next_draw_and_follows_the_seed() -> None:
    gate = gates()
    torch.manual_seed(2)
    gate.draw()
    first = gate().detach()
    assert torch.equal(gate(), first)
    gate.draw()
    assert not torch.equal(gate(), first)
    torch.manual_seed(2)
    gate.draw()
    assert torch.equal(gate(), first)


def test_training_without_noise_is_refused() -> None:
    with pytest.raises(RuntimeError, match="draw"):
        gates()()


def test_starting_values_follow_their_generator() -> None:
    torch.manual_seed(0)
    first = gates(seed=3)
    torch.manual_seed(1)
    assert torch.equal(gates(seed=3).scaled_log_alpha, first.scaled_log_alpha)
    assert not torch.equal(gates(seed=4).scaled_log_alpha, first.scaled_log_alpha)


def test_evaluation_drops_as_many_as_are_expected_to_go_and_softens_the_others() -> None:
    log_alpha = np.random.default_rng(0).normal(-1.0, 2.0, 200)
    gate = with_log_alpha(*log_alpha.tolist()).eval()
    zeros = round(float((1 - sigmoid(log_alpha + 2 / 3 * np.log(11.0))).sum()))
    assert 20 < zeros < 180
    expected = sigmoid(1.2 * log_alpha)
    expected[np.argsort(log_alpha)[:zeros]] = 0.0
    np.testing.assert_allclose(as_float64(gate()), expected, rtol=1e-5)
    assert np.array_equal(gate.kept().numpy(), expected > 0)


@pytest.mark.parametrize("log_alpha", [-1.5986, -0.5, 2.0])
def test_of_equal_gates_the_first_stay(log_alpha: float) -> None:
    gate = with_log_alpha(*[log_alpha] * 40)
    count = 40 - round(40 * float(1 - sigmoid(np.float64(log_alpha + 2 / 3 * np.log(11.0)))))
    assert gate.kept().tolist() == [index < count for index in range(40)]


def test_one_unit_always_stays() -> None:
    gate = with_log_alpha(-90.0, -80.0, -85.0)
    assert gate.kept().tolist() == [False, True, False]
    assert float(gate.expected().detach()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_parameter_alone(dtype: torch.dtype) -> None:
    gate = gates(200).to(dtype)
    whole = gates(200)
    with torch.no_grad():
        whole.scaled_log_alpha.copy_(gate.scaled_log_alpha)
    torch.manual_seed(0)
    gate.draw()
    whole.noise = gate.noise
    assert gate().dtype == gate.expected().dtype == torch.float32
    assert torch.equal(gate(), whole())
    assert torch.equal(gate.expected(), whole.expected())
    assert torch.equal(gate.eval()(), whole.eval()())
    gate.train()().sum().backward()
    assert gate.scaled_log_alpha.grad is not None
    assert gate.scaled_log_alpha.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_head_scales_all_of_its_entries(dtype: torch.dtype) -> None:
    gate = with_log_alpha(1.0, -90.0, 2.0, size=2).eval()
    values = gate()
    assert values[1] == 0.0
    (scaled,) = gate.scale_input(gate, (torch.ones(5, 6, dtype=dtype),))
    a, _, c = values.to(dtype).tolist()
    assert scaled.dtype == dtype
    assert scaled.tolist() == [[a, a, 0.0, 0.0, c, c]] * 5
