"""Refitting what is left of a linear layer once some of its inputs are removed.

A linear layer gives W x + b. Without the inputs R, those that are kept, K, are given the weights V
and the bias c that bring V x_K + c closest to it over some frames of calibration: least squares.
Frames are needed for their mean and covariance alone, so that they are never held together.

The bias is free, so that it takes up what is constant in the inputs that go. With the covariance S
of the inputs and the change D = V - W_K of the weights that are kept, the other unknowns solve

    (S_KK + ridge I) D^T = S_KR W_R^T,   c = b + W_R m_R - D m_K.

The ridge draws D towards 0, that is towards removal without repair. It makes the solution unique
where inputs depend on each other, and keeps it from fitting what a few frames have in common by
chance: it is `RIDGE` * |K| / frames times the mean of the diagonal of S_KK, so that more frames are
believed more. Even with it the error is never above that without repair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechprune.errors import UserError

#: Relative to the mean variance of the inputs that are kept, with as many frames as such inputs.
RIDGE = 1.0
#: Relative to the mean square of these inputs: how far rounding may put off their variances.
_ROUNDING = 1e-12


class InputMoments:
    """Sums over frames of the inputs of a linear layer and of their products, in float64.

    Args:
        inputs: N.

    Attributes:
        frames: how many were added.
    """

    def __init__(self, inputs: int) -> None:
        self.frames = 0
        self._sum = torch.zeros(inputs, dtype=torch.float64)
        self._products = torch.zeros(inputs, inputs, dtype=torch.float64)

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        """Add the inputs of some frames, (frames, N), floating point, on any device."""
        wide = frames.double()
        self.frames += len(wide)
        self._sum = self._sum.to(wide.device) + wide.sum(0)
        self._products = self._products.to(wide.device).addmm_(wide.T, wide)

    @property
    def mean(self) -> Tensor:
        """(N,), float64; raises UserError if there are no frames, or values that are not finite."""
        if not self.frames:
            raise UserError("there is not one frame of audio to repair a layer by")
        if not self._products.isfinite().all():
            raise UserError("a layer cannot be repaired by inputs that are not finite numbers")
        return self._sum / self.frames

    @property
    def covariance(self) -> Tensor:
        """(N, N), float64; raises UserError as `mean`."""
        mean = self.mean
        return (self._products / self.frames).addr_(mean, mean, alpha=-1.0)


@dataclass(frozen=True)
class Refit:
    """A linear layer with some of its inputs.

    Errors are relative: the root of the summed squares of what the outputs differ by, divided by
    that of the outputs of the whole layer, over the frames of calibration.

    Attributes:
        weight: (C, K), of the type of the whole layer's.
        bias: (C,), likewise.
        error_before: without repair.
        error_after: of ``weight`` and ``bias``, never larger.
    """

    weight: Tensor
    bias: Tensor
    error_before: float
    error_after: float


@torch.no_grad()
def refit(
    weight: Tensor,
    bias: Tensor,
    moments: InputMoments,
    kept: Sequence[int],
    *,
    ridge: float = RIDGE,
) -> Refit:
    """The weights of the inputs that are kept, and the bias, that replace the whole layer best.

    Args:
        weight: of the whole layer, (C, N), floating point.
        bias: (C,).
        moments: of its inputs.
        kept: inputs that stay, ascending.
        ridge: in the place of `RIDGE`; small, for plain least squares.

    Raises:
        UserError: there were no frames, or inputs that are not finite numbers.
    """
    mean, covariance = moments.mean, moments.covariance
    keeps = torch.tensor(kept, dtype=torch.long, device=mean.device)
    is_removed = torch.ones_like(mean, dtype=torch.bool).index_fill_(0, keeps, False)
    whole, constant = weight.to(mean), bias.to(mean)
    change = _solve(
        covariance[keeps][:, keeps],
        covariance[keeps][:, is_removed] @ whole[:, is_removed].T,
        mean[keeps],
        ridge * len(kept) / moments.frames,
    ).T
    shift = whole[:, is_removed] @ mean[is_removed] - change @ mean[keeps]
    # Errors are those of the weights as they are stored.
    new = (whole[:, keeps] + change).to(weight)
    new_bias = (constant + shift).to(bias)

    def error(of_weight: Tensor, of_bias: Tensor) -> float:
        difference = whole.neg().index_add_(1, keeps, of_weight.to(mean))
        return _power(difference, of_bias.to(mean) - constant, mean, covariance)

    signal = _power(whole, constant, mean, covariance)
    plain = weight[:, keeps.to(weight.device)]
    before, after = error(plain, bias), error(new, new_bias)
    if after > before:  # by rounding
        new, new_bias, after = plain, bias, before
    return Refit(new, new_bias, _relative(before, signal), _relative(after, signal))


def _solve(covariance: Tensor, target: Tensor, mean: Tensor, ridge: float) -> Tensor:
    """The change of weights, (K, C), from those of the module's text: S_KK, S_KR W_R^T and m_K.

    Args:
        ridge: relative to the mean variance.
    """
    variance, square = covariance.diagonal().mean(), mean.square().mean()
    added = torch.maximum(ridge * variance, _ROUNDING * (variance + square))
    if not added > 0:  # all inputs are 0
        return torch.zeros_like(target)
    covariance.diagonal().add_(added)
    return torch.cholesky_solve(target, torch.linalg.cholesky(covariance))


def _power(weight: Tensor, bias: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """The mean over frames of |weight x + bias|²."""
    varying = ((weight @ covariance) * weight).sum().clamp_(min=0.0)
    return float(varying + (weight @ mean + bias).square().sum())


def _relative(error: float, signal: float) -> float:
    return float((error / signal) ** 0.5) if error else 0.0
