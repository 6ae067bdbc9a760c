"""Repairing linear layers: against numpy's least squares over all frames, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.slimming.repair import RIDGE, InputMoments, Refit, refit

FRAMES, INPUTS, OUTPUTS = 400, 24, 10
#: So small that it is least squares alone.
NO_RIDGE = 1e-9
KEPT = (0, 1, 4, 5, 6, 9, 12, 13, 17, 20, 23)
REMOVED = tuple(sorted(set(range(INPUTS)) - set(KEPT)))


def layer(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator, dtype=torch.float64)
    return weight.to(dtype), torch.randn(OUTPUTS, generator=generator).to(dtype)


def related_frames(frames: int = FRAMES, seed: int = 0) -> Tensor:
    """Inputs that depend on each other, with means that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(INPUTS, INPUTS, generator=generator, dtype=torch.float64)
    drawn = torch.randn(frames, INPUTS, generator=generator, dtype=torch.float64)
    return (drawn @ mixing + mixing[0]).relu()


def moments_of(frames: Tensor, parts: int = 1) -> InputMoments:
    moments = InputMoments(frames.shape[1])
    for part in frames.tensor_split(parts):
        moments.add(part)
    return moments


def relative_error(frames: Tensor, new: Refit, weight: Tensor, bias: Tensor) -> float:
    """Of a refitted layer, by running it."""
    wanted = frames @ weight.double().T + bias.double()
    given = frames[:, list(KEPT)] @ new.weight.double().T + new.bias.double()
    return float((given - wanted).norm() / wanted.norm())


def test_it_is_numpys_least_squares() -> None:
    frames, (weight, bias) = related_frames(), layer()
    new = refit(weight, bias, moments_of(frames), KEPT, ridge=NO_RIDGE)
    design = np.column_stack([frames.numpy()[:, KEPT], np.ones(FRAMES)])
    wanted = frames.numpy() @ weight.numpy().T + bias.numpy()
    solution, residues, rank, _ = np.linalg.lstsq(design, wanted, rcond=None)
    assert rank == len(KEPT) + 1
    np.testing.assert_allclose(new.weight.numpy(), solution[:-1].T, atol=1e-6)
    np.testing.assert_allclose(new.bias.numpy(), solution[-1], atol=1e-5)
    best = np.sqrt(residues.sum()) / np.linalg.norm(wanted)
    assert new.error_after == pytest.approx(best, rel=1e-8)


def test_errors_are_those_of_the_layers_when_run() -> None:
    frames, (weight, bias) = related_frames(), layer()
    new = refit(weight, bias, moments_of(frames), KEPT)
    without = Refit(weight[:, list(KEPT)], bias, 0.0, 0.0)
    assert new.error_before == pytest.approx(relative_error(frames, without, weight, bias))
    assert new.error_after == pytest.approx(relative_error(frames, new, weight, bias))
    assert new.error_after < 0.9 * new.error_before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("frames", [1, 2, 7, len(KEPT), 100])
def test_repair_never_makes_it_worse(frames: int, dtype: torch.dtype) -> None:
    for seed in range(5):
        weight, bias = layer(seed, dtype)
        new = refit(weight, bias, moments_of(related_frames(frames, seed)), KEPT)
        assert new.error_after <= new.error_before
        assert new.weight.dtype == new.bias.dtype == dtype
        assert new.weight.isfinite().all() and new.weight.shape == (OUTPUTS, len(KEPT))


def test_removed_inputs_that_others_make_up_cost_nothing() -> None:
    frames, (weight, bias) = related_frames(), layer()
    generator = torch.Generator().manual_seed(1)
    recipe = torch.randn(len(KEPT), len(REMOVED), generator=generator, dtype=torch.float64)
    frames[:, list(REMOVED)] = frames[:, list(KEPT)] @ recipe + 3.0
    new = refit(weight, bias, moments_of(frames), KEPT, ridge=NO_RIDGE)
    assert new.error_before > 0.5
    assert new.error_after < 1e-7
    assert relative_error(frames, new, weight, bias) < 1e-7


def ridge_regression(frames: Tensor, weight: Tensor, ridge: float) -> np.ndarray:
    """The change of the weights that are kept, by rows added to the data, (C, K)."""
    x = (frames - frames.mean(0)).numpy()
    kept, wanted = x[:, KEPT], x[:, REMOVED] @ weight.numpy()[:, REMOVED].T
    scale = np.sqrt(ridge * len(KEPT) * (kept**2).mean())
    rows = np.concatenate([kept, scale * np.eye(len(KEPT))])
    targets = np.concatenate([wanted, np.zeros((len(KEPT), OUTPUTS))])
    return np.linalg.lstsq(rows, targets, rcond=None)[0].T


@pytest.mark.parametrize("ridge", [0.01, RIDGE, 5.0])
def test_the_ridge_is_that_of_ridge_regression(ridge: float) -> None:
    frames, (weight, bias) = related_frames(), layer()
    new = refit(weight, bias, moments_of(frames), KEPT, ridge=ridge)
    change = (new.weight - weight[:, list(KEPT)]).numpy()
    np.testing.assert_allclose(change, ridge_regression(frames, weight, ridge), atol=1e-9)


def test_the_ridge_helps_on_other_frames_where_there_are_few() -> None:
    weight, bias = layer()
    few, others = related_frames(8 + 400).split([8, 400])
    plain = refit(weight, bias, moments_of(few), KEPT, ridge=NO_RIDGE)
    damped = refit(weight, bias, moments_of(few), KEPT)
    errors = [relative_error(others, each, weight, bias) for each in (plain, damped)]
    assert errors[1] < errors[0]


def test_constant_inputs_go_into_the_bias() -> None:
    frames, (weight, bias) = related_frames(), layer()
    frames[:, list(REMOVED)] = torch.arange(len(REMOVED), dtype=torch.float64)
    new = refit(weight, bias, moments_of(frames), KEPT)
    folded = bias + weight[:, list(REMOVED)] @ frames[0, list(REMOVED)]
    torch.testing.assert_close(new.bias, folded)
    torch.testing.assert_close(new.weight, weight[:, list(KEPT)])
    assert new.error_after < 1e-7 < new.error_before


@pytest.mark.parametrize("case", ["equal", "zero", "constant", "all zero", "large mean"])
def test_inputs_of_no_rank_are_no_trouble(case: str) -> None:
    frames, (weight, bias) = related_frames(), layer()
    if case == "equal":
        frames[:, KEPT[1]] = frames[:, KEPT[0]]
    elif case == "zero":
        frames[:, list(KEPT[:5])] = 0.0
    elif case == "constant":
        frames[:, list(KEPT)] = 0.1
    elif case == "all zero":
        frames.zero_()
    else:
        frames += 1e6
    new = refit(weight, bias, moments_of(frames), KEPT)
    assert new.weight.isfinite().all() and new.bias.isfinite().all()
    assert new.error_after <= new.error_before
    assert relative_error(frames, new, weight, bias) == pytest.approx(new.error_after, abs=1e-6)


def test_half_precision_is_as_good_as_its_rounding() -> None:
    frames = related_frames()
    weight, bias = layer(dtype=torch.float16)
    rounded = refit(weight, bias, moments_of(frames), KEPT)
    exact = refit(weight.double(), bias.double(), moments_of(frames), KEPT)
    assert torch.equal(rounded.weight, exact.weight.half())
    assert rounded.error_after == pytest.approx(exact.error_after, rel=1e-3)
    assert rounded.error_after == pytest.approx(relative_error(frames, rounded, weight, bias))


def test_frames_may_come_in_any_batches() -> None:
    frames, (weight, bias) = related_frames(), layer()
    whole = refit(weight, bias, moments_of(frames), KEPT)
    parts = refit(weight, bias, moments_of(frames, parts=7), KEPT)
    torch.testing.assert_close(whole.weight, parts.weight, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(whole.bias, parts.bias, rtol=1e-8, atol=1e-8)


def test_everything_kept_changes_nothing() -> None:
    weight, bias = layer()
    new = refit(weight, bias, moments_of(related_frames()), range(INPUTS))
    assert torch.equal(new.weight, weight) and torch.equal(new.bias, bias)
    assert (new.error_before, new.error_after) == (0.0, 0.0)


def test_it_refuses_what_tells_nothing() -> None:
    weight, bias = layer()
    with pytest.raises(UserError, match="not one frame"):
        refit(weight, bias, InputMoments(INPUTS), KEPT)
    frames = related_frames()
    frames[3, 3] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        refit(weight, bias, moments_of(frames), KEPT)
