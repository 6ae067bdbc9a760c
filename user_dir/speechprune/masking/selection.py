"""Importance -> mask: exact top-k within a tensor or over many, and n of every m.

Pure functions: a mask depends on the importances and the count alone, so it is the same on every
device, rank and dtype. Ties go to the lower flat index (over many tensors: the earlier tensor
first), -0.0 equals 0.0, +inf is an importance like any other, and NaN raises FloatingPointError.

On a processor the k-th largest value is looked for in a `Bracket`, a narrow interval that the last
selection leaves for the next: one pass counts what lies above it and gathers the few values inside,
and only those are ordered. Thresholds move little between training updates, so the bracket nearly
always holds; where it does not, a sample of the tensor gives another. Where launches cost more than
passes (CUDA), tensors of one size are selected together, with one synchronisation for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprune.errors import UserError

#: A numpy array, or a scalar of its dtype.
Array = Any

#: Values per pass; with the flags beside them they stay in a core's cache.
_CHUNK = 1 << 16
#: Values in the sample from which a bracket is estimated.
_SAMPLE = 1 << 14
#: The next bracket is made to hold one value in this many.
_INSIDE = 256
#: Where more than one value in this many is inside the bracket, gathering them does not pay.
_SPARSE = 16
#: Values selected together on an accelerator; bounds the temporary memory.
_BATCH = 1 << 24


@dataclass(frozen=True)
class Bracket:
    """An interval [low, high] likely to hold the threshold of the next selection.

    It only saves time: any bracket, or none, gives the same mask.
    """

    low: float
    high: float


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
    if not 0.0 < density <= 1.0:
        raise UserError(f"density (the share kept) must lie in (0, 1], not {density}")
    return numel - int((1 - density) * numel)


def select_top_k(
    importance: Tensor, k: int, bracket: Bracket | None = None, *, magnitude: bool = False
) -> Selection:
    """The mask of the ``k`` largest entries.

    Args:
        importance: floating point, any shape, strides and device.
        k: entries to keep, 0 to numel.
        bracket: from the last selection.
        magnitude: rank by the absolute value instead, which is then never materialised.

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
        _check(importance.numel(), k)
    if brackets is None:
        brackets = [None] * len(importances)
    if any(importance.device.type != "cpu" for importance in importances):
        masks = _select_batched(importances, counts, magnitude)
        return [Selection(mask, None) for mask in masks]

    def select(importance: Tensor, k: int, bracket: Bracket | None) -> Selection:
        (mask,), following = _Search([importance], magnitude).run(k, bracket)
        return Selection(mask, following)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(select, importances, counts, brackets))


def select_top_k_global(
    importances: Sequence[Tensor],
    k: int,
    bracket: Bracket | None = None,
    *,
    magnitude: bool = False,
) -> GlobalSelection:
    """The masks of the ``k`` largest entries of all tensors together; see `select_top_k`.

    Equal to selecting from the concatenation of the flattened tensors, which share one dtype.
    """
    _check(sum(importance.numel() for importance in importances), k)
    if all(importance.device.type == "cpu" for importance in importances):
        return GlobalSelection(*_Search(importances, magnitude).run(k, bracket))
    flat = torch.cat([importance.detach().reshape(-1) for importance in importances])
    (mask,) = _select_batched([flat], [k], magnitude)
    parts = mask.split([importance.numel() for importance in importances])
    return GlobalSelection([part.view(i.shape) for part, i in zip(parts, importances)], None)


def select_n_of_m(importance: Tensor, n: int, m: int) -> Tensor:
    """The mask of the ``n`` largest of every ``m`` consecutive entries of the last dimension.

    Raises:
        UserError: the last dimension is no multiple of ``m``, or not 0 < n <= m.
        FloatingPointError: an entry is NaN.
    """
    if not 0 < n <= m:
        raise UserError(f"cannot keep {n} of every {m}: n:m needs 0 < n <= m")
    if importance.dim() == 0 or importance.shape[-1] % m:
        raise UserError(
            f"cannot keep {n} of every {m}: the last dimension of {list(importance.shape)} "
            f"is no multiple of {m}"
        )
    groups = importance.detach().unflatten(-1, (-1, m))
    _refuse_nan(groups.isnan().any())
    best = groups.sort(dim=-1, descending=True, stable=True).indices[..., :n]
    mask = torch.zeros(groups.shape, dtype=torch.bool, device=importance.device)
    return mask.scatter_(-1, best, True).flatten(-2)


def _check(numel: int, k: int) -> None:
    if not 0 <= k <= numel:
        raise ValueError(f"cannot keep {k} of {numel} entries")


def _refuse_nan(found: Tensor | bool) -> None:
    if found:
        raise FloatingPointError("cannot choose a mask: an importance is NaN")


def _kth_largest(values: Array, k: int) -> Array:
    """The k-th largest of a 1-D array, NaN counting as the largest."""
    rank = len(values) - k
    return np.partition(values, rank)[rank]


@dataclass
class _Scan:
    """What one pass found: how much lies above the bracket and inside it, and where.

    Attributes:
        places: per chunk, the indices of what is inside; None in a chunk with too many.
    """

    low: Array
    high: Array
    above: int
    inside: int
    places: list[Array | None]


class _Search:
    """Exact selection over flattened tensors, on the processor.

    In numpy, because torch does not vectorise comparisons that give bools, and because numpy lets
    Python's threads run a tensor each.
    """

    def __init__(self, tensors: Sequence[Tensor], magnitude: bool) -> None:
        half = (torch.float16, torch.bfloat16)
        self.magnitude = magnitude
        self.masks = [torch.empty(tensor.shape, dtype=torch.bool) for tensor in tensors]
        flat = [t.detach().float() if t.dtype in half else t.detach() for t in tensors]
        self.flat = [tensor.reshape(-1).numpy() for tensor in flat]
        self.numel = sum(len(values) for values in self.flat)
        self.dtype = self.flat[0].dtype
        self.chunks = [chunk for values in self.flat for chunk in _split(values)]
        self.parts = [part for mask in self.masks for part in _split(mask.view(-1).numpy())]

    def run(self, k: int, bracket: Bracket | None) -> tuple[list[Tensor], Bracket | None]:
        """The masks, and the bracket for the next time."""
        if k == 0:
            return [mask.fill_(False) for mask in self.masks], bracket
        scan = next(s for s in self._scans(k, bracket) if s.above < k <= s.above + s.inside)
        values = self._gather(scan)
        _refuse_nan(bool(np.isnan(values).any()))
        threshold = _kth_largest(values, k - scan.above)
        if any(places is None for places in scan.places):
            self._keep_dense(threshold, k)
        else:
            self._keep_sparse(scan, values, threshold, k)
        return self.masks, _following(scan, float(threshold), self.numel)

    def _key(self, chunk: Array, out: Array | None = None) -> Array:
        """What ``chunk`` is ranked by."""
        return np.abs(chunk, out=out) if self.magnitude else chunk

    def _scans(self, k: int, bracket: Bracket | None) -> Iterator[_Scan]:
        """Passes with ever safer brackets; the last holds everything."""
        if bracket is not None:
            with np.errstate(over="ignore"):
                low, high = self.dtype.type(bracket.low), self.dtype.type(bracket.high)
            if low <= high:
                yield self._scan(low, high)
        yield self._scan(*self._estimate(k))
        yield self._scan(self.dtype.type(-np.inf), self.dtype.type(np.inf))

    def _estimate(self, k: int) -> tuple[Array, Array]:
        """A bracket from a sample: four standard deviations of the sampled rank either way."""
        stride = max(1, self.numel // _SAMPLE) | 1  # odd: not in step with rows of a round width
        sample = self._key(np.concatenate([values[::stride] for values in self.flat]))
        count, share = len(sample), k / self.numel
        spread = 4 * math.sqrt(count * share * (1 - share)) + 4
        first, last = math.floor(count * share - spread), math.ceil(count * share + spread)
        low = self.dtype.type(-np.inf) if last > count else _kth_largest(sample, last)
        high = self.dtype.type(np.inf) if first < 1 else _kth_largest(sample, first)
        return low, high

    def _scan(self, low: Array, high: Array) -> _Scan:
        """Mark what is above ``high`` in the masks, and find what is in [low, high].

        NaN is neither above nor below, hence always inside, where it is noticed.
        """
        scan = _Scan(low, high, 0, 0, [])
        size = min(_CHUNK, self.numel)
        buffer, below = np.empty(size, self.dtype), np.empty(size, bool)
        for chunk, mask in zip(self.chunks, self.parts):
            size = len(chunk)
            values = self._key(chunk, buffer[:size])
            np.greater(values, high, out=mask)
            inside = np.less(values, low, out=below[:size])
            np.equal(mask, inside, out=inside)
            count = int(np.count_nonzero(inside))
            scan.above += int(np.count_nonzero(mask))
            scan.inside += count
            scan.places.append(np.flatnonzero(inside) if count * _SPARSE <= size else None)
        return scan

    def _gather(self, scan: _Scan) -> Array:
        """The values inside the bracket, in flat order."""
        gathered = []
        for chunk, places in zip(self.chunks, scan.places):
            if places is None:
                values = self._key(chunk)
                gathered.append(values[(values > scan.high) == (values < scan.low)])
            else:
                gathered.append(self._key(chunk[places]))
        return np.concatenate(gathered)

    def _keep_sparse(self, scan: _Scan, values: Array, threshold: Array, k: int) -> None:
        """Add what is kept of the values inside the bracket to the masks."""
        keep = values > threshold
        ties = np.flatnonzero(values == threshold)
        keep[ties[: k - scan.above - int(np.count_nonzero(keep))]] = True
        start = 0
        for mask, places in zip(self.parts, scan.places):
            assert places is not None
            mask[places] = keep[start : start + len(places)]
            start += len(places)

    def _keep_dense(self, threshold: Array, k: int) -> None:
        """Write the masks anew: all above the threshold, then ties from the first on."""
        room = k - self._scan(threshold, threshold).above
        for chunk, mask in zip(self.chunks, self.parts):
            ties = self._key(chunk) == threshold
            count = int(np.count_nonzero(ties))
            if count > room:
                ties[np.flatnonzero(ties)[room] :] = False
            mask |= ties
            room -= min(room, count)


def _split(flat: Array) -> list[Array]:
    return [flat[start : start + _CHUNK] for start in range(0, len(flat), _CHUNK)]


def _following(scan: _Scan, threshold: float, numel: int) -> Bracket:
    """A bracket about ``threshold`` that would hold one value in `_INSIDE` of those just seen."""
    share = max(numel / _INSIDE, 1.0) / scan.inside
    reach = (scan.high - scan.low) / 2 * min(share, 4.0)
    if not math.isfinite(reach):
        reach = 0.0
    return Bracket(threshold - reach, threshold + reach)


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
        height = max(1, _BATCH // max(numel, 1))
        for start in range(0, len(indices), height):
            batch = indices[start : start + height]
            rows = torch.stack([importances[index].detach().reshape(-1) for index in batch])
            rows = rows.abs_() if magnitude else rows
            kept, nan = _select_rows(rows, k)
            damaged.append(nan.cpu() if len(alike) == 0 else nan)
            for index, mask in zip(batch, kept):
                masks[index] = mask.view(importances[index].shape)
    _refuse_nan(torch.stack(damaged).any())
    return [masks[index] for index in range(len(importances))]


def _select_rows(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k of each row without waiting for the device.

    Args:
        rows: (R, N).

    Returns:
        the masks (R, N), and whether any entry is NaN, a bool scalar on the device.
    """
    numel = rows.shape[1]
    if k == 0 or numel == 0:
        return torch.zeros_like(rows, dtype=torch.bool), rows.isnan().any()
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
