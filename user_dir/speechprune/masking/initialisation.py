"""Starting values for scores, by the names that S3-Router gave them, and one more.

``weight_rank_with_scale`` gives scores a learning rate of their own: Adam's steps are as long for
small gradients as for large ones, so scores over a scale move as if their rate were so many times
higher.

Source: Fu et al., "Losses Can Be Blessings: Routing Self-Supervised Speech Representations Towards
Efficient Multilingual and Multitask Speech Processing", NeurIPS 2022, and its code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.selection import keep_count, select_top_k
from speechprune.registry import unknown_name


@dataclass(frozen=True)
class Start:
    """What an initialisation may use.

    Attributes:
        norm: L1 norm of the weight per score, in the shape of the scores: the magnitude itself for
            one score per weight, the row's or column's norm for one score per row or column.
        weight: the signed weight for one score per weight, else ``norm``.
        fan_in, fan_out: of the scores' own shape, as PyTorch counts them: one score per row has a
            fan-in of 1.
        density: the share kept at first.
        scale: ``init_score_scale``.
    """

    norm: Tensor
    weight: Tensor
    fan_in: int
    fan_out: int
    density: float
    scale: float
    generator: torch.Generator

    def uniform(self, low: float, high: float) -> Tensor:
        return torch.empty_like(self.norm).uniform_(low, high, generator=self.generator)

    def normal(self, deviation: float) -> Tensor:
        return torch.empty_like(self.norm).normal_(0.0, deviation, generator=self.generator)


def _kaiming_uniform(start: Start) -> Tensor:
    bound = 1.0 / math.sqrt(start.fan_in)
    return start.uniform(-bound, bound)


#: Relative gap between the smallest score kept at first and the largest removed: wide enough for
#: bfloat16 to keep them apart.
_GAP = 2.0**-6


def _weight_rank(start: Start) -> Tensor:
    """kaiming_uniform values dealt out so that the rank of |score| is the rank of |weight|.

    Both orders are descending and stable, so equal weights rank by index, as selection ranks them:
    the first mask is exactly the magnitude mask.
    """
    values = _kaiming_uniform(start).flatten()
    values = values[values.abs().argsort(descending=True, stable=True)]
    values[keep_count(values.numel(), start.density) :] *= 1.0 - _GAP
    scores = torch.empty_like(values)
    scores[start.norm.flatten().argsort(descending=True, stable=True)] = values
    return scores.view_as(start.norm)


def rank_by_mask(scores: Tensor, mask: Tensor) -> Tensor:
    """The magnitudes of ``scores`` dealt out anew: the largest to what ``mask`` keeps.

    Signs, and the order within the kept and within the removed, stay; both are of one shape.
    """
    flat, kept = scores.flatten(), mask.flatten()
    order = flat.abs().argsort(descending=True, stable=True)
    magnitudes = flat.abs()[order]
    magnitudes[int(kept.count_nonzero()) :] *= 1.0 - _GAP
    places = torch.cat([order[kept[order]], order[~kept[order]]])
    dealt = torch.empty_like(flat)
    dealt[places] = magnitudes.copysign(flat[places])
    return dealt.view_as(scores)


def _magnitude_bits(importance: Tensor, density: float) -> Tensor:
    kept = select_top_k(importance, keep_count(importance.numel(), density)).mask
    return kept.to(importance.dtype)


_INITIALISATIONS: dict[str, Callable[[Start], Tensor]] = {
    "kaiming_uniform": _kaiming_uniform,
    "kaiming": _kaiming_uniform,
    "kaiming_normal": lambda s: s.normal(math.sqrt(2.0 / s.fan_in)),
    "xavier_normal": lambda s: s.normal(math.sqrt(2.0 / (s.fan_in + s.fan_out))),
    "uniform": lambda s: s.uniform(0.0, 1.0),
    "normal": lambda s: s.normal(1.0),
    "weight_rank": _weight_rank,
    "weight_rank_with_scale": lambda s: _weight_rank(s) / s.scale,
    "weight_magnitude_with_scale": lambda s: s.weight / s.scale,
    "weight_magnitude": lambda s: _magnitude_bits(s.norm, s.density),
    "negative_weight_magnitude": lambda s: _magnitude_bits(-s.norm, s.density),
    "zero": lambda s: torch.zeros_like(s.norm),
    "one": lambda s: torch.ones_like(s.norm),
}


def check_name(name: str) -> None:
    """Raise UserError, with the nearest name, unless ``name`` is an initialisation."""
    if name not in _INITIALISATIONS:
        raise UserError(unknown_name("model.init_score", name, list(_INITIALISATIONS)))


def initial_scores(
    name: str,
    weight: Tensor,
    reduce: tuple[int, ...],
    density: float,
    scale: float,
    generator: torch.Generator,
) -> Tensor:
    """Starting scores for one weight.

    Args:
        name: one of S3-Router's names, such as ``weight_rank``.
        weight: (out, in, ...), float32.
        reduce: dimensions that share one score: none, all but the first for one score per row,
            all but the second for one score per column.
        density: the share kept at first; only the 0/1 scores of ``weight_magnitude`` and
            ``negative_weight_magnitude`` depend on it.
        scale: what the starts ``..._with_scale`` divide by.
        generator: source of the random values.

    Returns:
        float32 scores in the weight's shape, with 1 in each reduced dimension.
    """
    check_name(name)
    norm = weight.abs()
    if reduce:
        norm = norm.sum(dim=reduce, keepdim=True)
    start = Start(
        norm=norm,
        weight=norm if reduce else weight,
        fan_in=norm.numel() // norm.shape[0],
        fan_out=norm.numel() // norm.shape[1],
        density=density,
        scale=scale,
        generator=generator,
    )
    return _INITIALISATIONS[name](start).clone()
