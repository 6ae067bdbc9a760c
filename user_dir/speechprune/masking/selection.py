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
from dataclasses import dataclass

import torch
from torch import Tensor

from speechprune.errors import UserError

#: Values per pass; with the flags beside them they stay in a core's cache.
_CHUNK = 1 << 19
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
    buffers = _Buffers(importances, magnitude)
    selections = []
    for importance, k, bracket in zip(importances, counts, brackets):
        (mask,), following = _Search([importance], buffers).run(k, bracket)
        selections.append(Selection(mask, following))
    return selections


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
        return GlobalSelection(
            *_Search(importances, _Buffers(importances, magnitude)).run(k, bracket)
        )
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


def _kth_largest(values: Tensor, k: int) -> float:
    """The k-th largest of a 1-D tensor, NaN counting as the largest."""
    return float(values.kthvalue(values.numel() - k + 1).values)


class _Buffers:
    """What one pass over a chunk needs, allocated once for all tensors of a call.

    Comparisons write 0.0 and 1.0, because torch vectorises them that way and not into bools.

    Attributes:
        values: importances in the dtype they are compared in, float32 for the half precisions.
        flags: of the same dtype.
        below, inside: bool; ``inside`` is padded to whole 8-byte words.
    """

    def __init__(self, tensors: Sequence[Tensor], magnitude: bool) -> None:
        half = (torch.float16, torch.bfloat16)
        dtypes = {torch.float32 if t.dtype in half else t.dtype for t in tensors}
        if len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes):
            raise TypeError(f"importances share one floating-point dtype, not {dtypes}")
        self.magnitude = magnitude
        self.dtype = dtypes.pop() if dtypes else torch.float32
        size = min(_CHUNK, max((t.numel() for t in tensors), default=0) + 7 & ~7)
        self.values = torch.empty(size, dtype=self.dtype)
        self.flags = torch.empty(size, dtype=self.dtype)
        self.below = torch.empty(size, dtype=torch.bool)
        self.inside = torch.empty(size, dtype=torch.bool)

    def key(self, chunk: Tensor, out: Tensor | None = None) -> Tensor:
        """What ``chunk`` is ranked by, in ``values`` unless ``out`` is given."""
        if out is None:
            out = self.values[: chunk.numel()]
        return torch.abs(chunk, out=out) if self.magnitude else out.copy_(chunk)


@dataclass
class _Scan:
    """What one pass found: how much lies above the bracket and inside it, and where.

    Attributes:
        places: per chunk, int64 indices of what is inside; None in a chunk with too many.
    """

    low: float
    high: float
    above: int
    inside: int
    places: list[Tensor | None]


class _Search:
    """Exact selection over the flattened tensors, on the processor."""

    def __init__(self, tensors: Sequence[Tensor], buffers: _Buffers) -> None:
        self.buffers = buffers
        self.masks = [torch.empty(tensor.shape, dtype=torch.bool) for tensor in tensors]
        self.flat = [tensor.detach().reshape(-1) for tensor in tensors]
        self.numel = sum(flat.numel() for flat in self.flat)
        self.chunks = [c for flat in self.flat for c in flat.split(_CHUNK) if c.numel()]
        self.parts = [m for mask in self.masks for m in mask.view(-1).split(_CHUNK) if m.numel()]

    def run(self, k: int, bracket: Bracket | None) -> tuple[list[Tensor], Bracket | None]:
        """The masks, and the bracket for the next time."""
        if k == 0:
            return [mask.fill_(False) for mask in self.masks], bracket
        scan = next(s for s in self._scans(k, bracket) if s.above < k <= s.above + s.inside)
        values = self._gather(scan)
        _refuse_nan(values.isnan().any())
        threshold = _kth_largest(values, k - scan.above)
        if any(places is None for places in scan.places):
            self._keep_dense(threshold, k)
        else:
            self._keep_sparse(scan, values, threshold, k)
        return self.masks, _following(scan, threshold, self.numel)

    def _scans(self, k: int, bracket: Bracket | None) -> Iterator[_Scan]:
        """Passes with ever safer brackets; the last holds everything."""
        if bracket is not None:
            limits = torch.tensor([bracket.low, bracket.high], dtype=self.buffers.dtype)
            low, high = limits.tolist()
            if low <= high:
                yield self._scan(low, high)
        yield self._scan(*self._estimate(k))
        yield self._scan(-math.inf, math.inf)

    def _estimate(self, k: int) -> tuple[float, float]:
        """A bracket from a sample: four standard deviations of the sampled rank either way."""
        stride = max(1, self.numel // _SAMPLE) | 1  # odd: not in step with rows of a round width
        sampled = torch.cat([flat[::stride] for flat in self.flat])
        sample = self.buffers.key(sampled, torch.empty(sampled.numel(), dtype=self.buffers.dtype))
        count, share = sample.numel(), k / self.numel
        spread = 4 * math.sqrt(count * share * (1 - share)) + 4
        first, last = math.floor(count * share - spread), math.ceil(count * share + spread)
        low = -math.inf if last > count else _kth_largest(sample, last)
        high = math.inf if first < 1 else _kth_largest(sample, first)
        return low, high

    def _scan(self, low: float, high: float) -> _Scan:
        """Mark what is above ``high`` in the masks, and find what is in [low, high].

        NaN is neither above nor below, hence always inside, where it is noticed.
        """
        scan = _Scan(low, high, 0, 0, [])
        for chunk, mask in zip(self.chunks, self.parts):
            size = chunk.numel()
            values = self.buffers.key(chunk)
            flags = torch.gt(values, high, out=self.buffers.flags[:size])
            mask.copy_(flags)
            scan.above += int(flags.sum())  # exact: a chunk is far smaller than 2 ** 24
            below = self.buffers.below[:size].copy_(values.lt_(low))
            torch.eq(mask, below, out=self.buffers.inside[:size])
            places = self._inside(size)
            inside = self.buffers.inside[:size].count_nonzero() if places is None else len(places)
            scan.inside += int(inside)
            scan.places.append(places)
        return scan

    def _inside(self, size: int) -> Tensor | None:
        """Indices of the True among the first ``size`` entries of ``inside``; None if many.

        Looks at eight flags at a time, since nearly all are False.
        """
        padded = size + 7 & ~7
        self.buffers.inside[size:padded] = False
        words = self.buffers.inside[:padded].view(torch.int64)
        filled = words.nonzero().squeeze(1)
        if len(filled) > max(size // _SPARSE, 8):
            return None
        found = words.index_select(0, filled).view(torch.bool).nonzero().squeeze(1)
        return filled.mul_(8).index_select(0, found >> 3).add_(found & 7)

    def _gather(self, scan: _Scan) -> Tensor:
        """The values inside the bracket, in flat order."""
        gathered = []
        for chunk, places in zip(self.chunks, scan.places):
            if places is None:
                values = self.buffers.key(chunk)
                outside = (values > scan.high).logical_or_(values < scan.low)
                gathered.append(values.masked_select(outside.logical_not_()))
            else:
                found = chunk.index_select(0, places)
                gathered.append(
                    self.buffers.key(found, torch.empty(len(found), dtype=self.buffers.dtype))
                )
        return torch.cat(gathered)

    def _keep_sparse(self, scan: _Scan, values: Tensor, threshold: float, k: int) -> None:
        """Add what is kept of the values inside the bracket to the masks."""
        keep = values > threshold
        ties = (values == threshold).nonzero().squeeze(1)
        keep[ties[: k - scan.above - int(keep.count_nonzero())]] = True
        places = [p for p in scan.places if p is not None]
        for mask, where, kept in zip(self.parts, places, keep.split([len(p) for p in places])):
            mask.scatter_(0, where, kept)

    def _keep_dense(self, threshold: float, k: int) -> None:
        """Write the masks anew: all above the threshold, then ties from the first on."""
        room = k - self._scan(threshold, threshold).above
        for chunk, mask in zip(self.chunks, self.parts):
            if room == 0:
                break
            ties = self.buffers.key(chunk) == threshold
            count = int(ties.count_nonzero())
            if count > room:
                last = int(ties.nonzero()[room - 1]) + 1
                ties[last:] = False
            mask |= ties
            room -= min(room, count)


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
