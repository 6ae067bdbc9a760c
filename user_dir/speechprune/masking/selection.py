"""Importance -> mask: exact top-k within a tensor or over many, and n of every m.

Pure functions: a mask depends on the importances and the count alone, so it is the same on every
device, rank and dtype. Ties go to the lower flat index (over many tensors: the earlier tensor
first), -0.0 equals 0.0, +inf is an importance like any other, and NaN raises FloatingPointError.

On a processor the work is done by `bracket_search`; on an accelerator, where launches cost more
than passes, tensors of one size are selected together, with one synchronisation for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechprune.errors import UserError
from speechprune.masking.bracket_search import Bracket, BracketSearch
from speechprune.masking.densities import check_density

__all__ = [
    "Bracket",
    "GlobalSelection",
    "Selection",
    "density_that_keeps",
    "flipped_places",
    "keep_count",
    "select_each",
    "select_n_of_m",
    "select_top_k",
    "select_top_k_global",
]

#: Values selected together on an accelerator; bounds the temporary memory.
_BATCH = 1 << 24


@dataclass(frozen=True)
class Selection:
    """A mask and the bracket for the next selection from the same, slightly changed, importances.

    Attributes:
        mask: bool, like the importances; True is kept.
        bracket: None where brackets are of no use (on an accelerator).
    """

    mask: Tensor
    bracket: Bracket | None


@dataclass(frozen=True)
class GlobalSelection:
    """The masks of several tensors ranked together, and the bracket they share; see `Selection`."""

    masks: list[Tensor]
    bracket: Bracket | None


def keep_count(numel: int, density: float) -> int:
    """How many of ``numel`` entries are kept at ``density``: numel - int((1 - density) * numel).

    Source: the float arithmetic of S3-Router's code (Fu et al., NeurIPS 2022), kept to the bit.
    Raises UserError unless ``density``, the share kept, lies in (0, 1].
    """
    check_density("density", density)
    return numel - int((1 - density) * numel)


def density_that_keeps(kept: int, numel: int) -> float:
    """A density at which `keep_count` keeps ``kept``, one or more, of ``numel`` entries.

    It lies half an entry below their share, so that rounding never changes the number.
    """
    return (kept - 0.5) / numel


def select_top_k(
    importance: Tensor, k: int, bracket: Bracket | None = None, *, magnitude: bool = False
) -> Selection:
    """The mask of the ``k`` largest entries.

    Args:
        importance: floating point, any shape, strides and device.
        k: entries to keep, 0 to numel.
        bracket: from the last selection; any bracket, or none, gives the same mask.
        magnitude: rank by the absolute value, which is then never materialised.

    Raises:
        FloatingPointError: an entry is NaN.
    """
    return select_each([importance], [k], [bracket], magnitude=magnitude)[0]


def select_each(
    importances: Sequence[Tensor],
    counts: Sequence[int],
    brackets: Sequence[Bracket | None] | None = None,
    *,
    magnitude: bool = False,
) -> list[Selection]:
    """`select_top_k` for each tensor; faster together, and on an accelerator much faster."""
    for importance, k in zip(importances, counts):
        _check([importance], k)
    if not _all_on_processor(importances):
        kept = _select_batched(importances, counts, magnitude)
        return [Selection(mask, None) for mask in kept]
    masks = [torch.empty(i.shape, dtype=torch.bool) for i in importances]
    following = list(brackets or [None] * len(masks))
    workers = max(1, min(torch.get_num_threads(), len(masks)))

    def select_share(worker: int) -> None:
        searches: dict[np.dtype, BracketSearch] = {}
        for i in range(worker, len(masks), workers):
            values, mask = _comparable(importances[i]), masks[i].view(-1).numpy()
            if values.dtype not in searches:
                searches[values.dtype] = BracketSearch(values.dtype, magnitude)
            search = searches[values.dtype]
            following[i] = search.fill([values], [mask], counts[i], following[i])

    if workers == 1:
        select_share(0)
    else:
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(select_share, range(workers)))
    return [Selection(mask, bracket) for mask, bracket in zip(masks, following)]


def select_top_k_global(
    importances: Sequence[Tensor],
    k: int,
    bracket: Bracket | None = None,
    *,
    magnitude: bool = False,
) -> GlobalSelection:
    """The masks of the ``k`` largest entries of all tensors, of one dtype, together.

    Equal to `select_top_k` on the concatenation of the flattened tensors.
    """
    _check(importances, k)
    if not _all_on_processor(importances):
        joined = torch.cat([importance.detach().reshape(-1) for importance in importances])
        (mask,) = _select_batched([joined], [k], magnitude)
        parts = mask.split([importance.numel() for importance in importances])
        return GlobalSelection([part.view(i.shape) for part, i in zip(parts, importances)], None)
    masks = [torch.empty(i.shape, dtype=torch.bool) for i in importances]
    values = [_comparable(importance) for importance in importances]
    flat = [mask.view(-1).numpy() for mask in masks]
    following = BracketSearch(values[0].dtype, magnitude).fill(values, flat, k, bracket)
    return GlobalSelection(masks, following)


def select_n_of_m(importance: Tensor, n: int, m: int) -> Tensor:
    """The mask of the ``n`` largest of every ``m`` consecutive entries of the last dimension.

    Raises:
        UserError: the last dimension is not a multiple of ``m``, or not 0 < n <= m.
        FloatingPointError: an entry is NaN.
    """
    if not 0 < n <= m:
        raise UserError(f"cannot keep {n} of every {m}: n:m needs 0 < n <= m")
    if importance.dim() == 0 or importance.shape[-1] % m:
        raise UserError(
            f"cannot keep {n} of every {m}: the last dimension of {list(importance.shape)} "
            f"is not a multiple of {m}"
        )
    groups = importance.detach().unflatten(-1, (-1, m))
    _refuse_nan(groups.isnan().any())
    best = groups.sort(dim=-1, descending=True, stable=True).indices[..., :n]
    mask = torch.zeros(groups.shape, dtype=torch.bool, device=importance.device)
    return mask.scatter_(-1, best, True).flatten(-2)


def flipped_places(before: Tensor, after: Tensor) -> Tensor:
    """Flat indices (int64, ascending) of the entries in which two masks on a processor differ.

    Few do from one update to the next, so eight entries are compared at a time.
    """
    old, new = before.reshape(-1).numpy(), after.reshape(-1).numpy()
    whole = len(old) & ~7
    words = np.flatnonzero(old[:whole].view(np.uint64) != new[:whole].view(np.uint64))
    near = (words[:, None] * 8 + np.arange(8)).reshape(-1)
    near = np.concatenate([near, np.arange(whole, len(old))])
    return torch.from_numpy(near[old[near] != new[near]])


def _check(importances: Sequence[Tensor], k: int) -> None:
    numel = sum(importance.numel() for importance in importances)
    if not 0 <= k <= numel:
        raise ValueError(f"cannot keep {k} of {numel} entries")
    dtypes = {importance.dtype for importance in importances}
    if len(dtypes) != 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise TypeError(f"importances ranked together share one float dtype, not {dtypes}")


def _refuse_nan(found: Tensor) -> None:
    if found:
        raise FloatingPointError("cannot choose a mask: an importance is NaN")


def _all_on_processor(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors)


def _comparable(importance: Tensor) -> np.ndarray:
    """Flat and contiguous, with half precision widened, which is exact."""
    half = importance.dtype in (torch.float16, torch.bfloat16)
    widened = importance.detach().to(torch.float32 if half else importance.dtype)
    return widened.reshape(-1).numpy()


def _select_batched(
    importances: Sequence[Tensor], counts: Sequence[int], magnitude: bool
) -> list[Tensor]:
    """Masks by `_select_rows`, many tensors at a time."""
    alike: dict[tuple[int, int, torch.dtype, torch.device], list[int]] = {}
    for index, (importance, k) in enumerate(zip(importances, counts)):
        key = (importance.numel(), k, importance.dtype, importance.device)
        alike.setdefault(key, []).append(index)
    masks: dict[int, Tensor] = {}
    damaged = []
    for (numel, k, _, _), indices in alike.items():
        height = max(1, _BATCH // max(1, numel))
        for start in range(0, len(indices), height):
            batch = indices[start : start + height]
            rows = torch.stack([importances[index].detach().reshape(-1) for index in batch])
            kept, nan = _select_rows(rows.abs_() if magnitude else rows, k)
            damaged.append(nan.to(importances[0].device))
            for index, mask in zip(batch, kept):
                masks[index] = mask.view(importances[index].shape)
    _refuse_nan(torch.stack(damaged).any())
    return [masks[index] for index in range(len(importances))]


def _select_rows(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k of each row, without waiting for the device.

    Args:
        rows: (R, N).

    Returns:
        the masks (R, N), and whether any entry is NaN, a bool scalar on the device.
    """
    numel = rows.shape[1]
    if k == 0:
        return torch.zeros_like(rows, dtype=torch.bool), rows.new_zeros((), dtype=torch.bool)
    if k <= numel // 2:
        threshold = rows.topk(k, sorted=False).values.amin(1, keepdim=True)
    else:
        rest = rows.topk(numel - k + 1, largest=False, sorted=False).values
        threshold = rest.amax(1, keepdim=True)
    mask = rows > threshold
    room = k - mask.sum(1, keepdim=True)
    ties = rows == threshold
    counter = torch.int32 if numel < 2**31 else torch.int64
    mask |= ties & (ties.cumsum(1, dtype=counter) <= room)
    return mask, rows.amax().isnan()
