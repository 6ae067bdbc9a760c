"""Exact top-k on a processor: one pass over the values, most times.

The k-th largest value is looked for in a `Bracket`, a narrow interval that the last selection
leaves for the next: a pass counts what lies above it and gathers the few values inside, and only
those are ordered. Thresholds move little between training updates, so the bracket nearly always
holds; where it does not, a sample of the values gives another.

In numpy, because torch does not vectorise comparisons that give bools, and because Python's threads
can then run a tensor each, without a barrier after every operation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: A numpy array, or a scalar of its dtype.
Array = Any

#: Values per pass; with their flags they stay in a core's cache.
_CHUNK = 1 << 16
#: Values in the sample from which a bracket is estimated.
_SAMPLE = 1 << 14
#: The next bracket is made to hold one value in this many.
_INSIDE = 256
#: Where more than one value in this many of a chunk is inside, remembering their places costs more
#: than comparing again.
_SPARSE = 16


@dataclass(frozen=True)
class Bracket:
    """An interval [low, high] likely to hold the threshold of the next selection.

    It only saves time: any bracket, or none, gives the same mask.
    """

    low: float
    high: float


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

    @property
    def is_dense(self) -> bool:
        return any(places is None for places in self.places)


class BracketSearch:
    """Fills masks with the largest of several arrays ranked together.

    Ties go to the earlier array, then to the lower index.

    Args:
        dtype: of all arrays, float32 or float64.
        magnitude: rank by the absolute value.
    """

    def __init__(self, dtype: Any, magnitude: bool) -> None:
        self.dtype = np.dtype(dtype)
        self.magnitude = magnitude
        self._values = np.empty(_CHUNK, self.dtype)
        self._flags = np.empty(_CHUNK, bool)

    def fill(
        self, arrays: Sequence[Array], masks: Sequence[Array], k: int, bracket: Bracket | None
    ) -> Bracket | None:
        """Set exactly ``k`` entries of ``masks`` to True and the others to False.

        Args:
            arrays: 1-D, contiguous.
            masks: bool, like ``arrays``; what they hold does not matter.
            k: 0 to the number of entries.
            bracket: from the last call for these arrays.

        Returns:
            the bracket for the next call.

        Raises:
            FloatingPointError: an entry is NaN.
        """
        chunks = [part for array in arrays for part in _split(array)]
        parts = [part for mask in masks for part in _split(mask)]
        if k == 0:
            for mask in parts:
                mask.fill(False)
            return bracket
        limits = self._limits(arrays, k, bracket)
        scans = (self._scan(chunks, parts, low, high) for low, high in limits)
        scan = next(s for s in scans if s.above < k <= s.above + s.inside)
        if scan.is_dense and scan.low < scan.high:
            threshold = _kth_largest(_refuse_nan(self._gather(chunks, scan)), k - scan.above)
            scan = self._scan(chunks, parts, threshold, threshold)
        if scan.is_dense:
            threshold = scan.low
            self._keep_ties(chunks, parts, scan, k)
        else:
            values = _refuse_nan(self._gather(chunks, scan))
            threshold = _kth_largest(values, k - scan.above)
            _keep_places(parts, scan, values, threshold, k)
        return _following(scan, float(threshold), sum(map(len, chunks)))

    def _key(self, chunk: Array, out: Array | None = None) -> Array:
        """What ``chunk`` is ranked by."""
        return np.abs(chunk, out=out) if self.magnitude else chunk

    def _limits(
        self, arrays: Sequence[Array], k: int, bracket: Bracket | None
    ) -> Iterator[tuple[Array, Array]]:
        """Ever safer brackets; the last holds everything."""
        if bracket is not None:
            with np.errstate(over="ignore"):
                low, high = self.dtype.type(bracket.low), self.dtype.type(bracket.high)
            if low <= high:
                yield low, high
        yield self._estimate(arrays, k)
        yield self.dtype.type(-np.inf), self.dtype.type(np.inf)

    def _estimate(self, arrays: Sequence[Array], k: int) -> tuple[Array, Array]:
        """A bracket from a sample: four standard deviations of the sampled rank either way."""
        numel = sum(map(len, arrays))
        stride = max(1, numel // _SAMPLE) | 1  # odd: not in step with rows of a round width
        sample = self._key(np.concatenate([array[::stride] for array in arrays]))
        count, share = len(sample), k / numel
        spread = 4 * math.sqrt(count * share * (1 - share)) + 4
        first, last = math.floor(count * share - spread), math.ceil(count * share + spread)
        low = self.dtype.type(-np.inf) if last > count else _kth_largest(sample, last)
        high = self.dtype.type(np.inf) if first < 1 else _kth_largest(sample, first)
        return low, high

    def _scan(
        self, chunks: Sequence[Array], masks: Sequence[Array], low: Array, high: Array
    ) -> _Scan:
        """Mark what is above ``high`` in the masks, and find what is in [low, high].

        NaN is neither above nor below, hence always inside, where it is noticed.
        """
        scan = _Scan(low, high, 0, 0, [])
        for chunk, mask in zip(chunks, masks):
            values = self._key(chunk, self._values[: len(chunk)])
            np.greater(values, high, out=mask)
            inside = np.less(values, low, out=self._flags[: len(chunk)])
            np.equal(mask, inside, out=inside)
            count = int(np.count_nonzero(inside))
            scan.above += int(np.count_nonzero(mask))
            scan.inside += count
            scan.places.append(np.flatnonzero(inside) if count * _SPARSE <= len(chunk) else None)
        return scan

    def _gather(self, chunks: Sequence[Array], scan: _Scan) -> Array:
        """The values inside the bracket, in order."""
        gathered = []
        for chunk, places in zip(chunks, scan.places):
            if places is None:
                values = self._key(chunk)
                gathered.append(values[(values > scan.high) == (values < scan.low)])
            else:
                gathered.append(self._key(chunk[places]))
        return np.concatenate(gathered)

    def _keep_ties(
        self, chunks: Sequence[Array], masks: Sequence[Array], scan: _Scan, k: int
    ) -> None:
        """Add ties to the masks, from the first on, after a scan whose bracket is one value."""
        room, equal = k - scan.above, 0
        for chunk, mask in zip(chunks, masks):
            values = self._key(chunk, self._values[: len(chunk)])
            ties = np.equal(values, scan.low, out=self._flags[: len(chunk)])
            count = int(np.count_nonzero(ties))
            if count > room:
                ties[np.flatnonzero(ties)[room:]] = False
            np.logical_or(mask, ties, out=mask)
            room -= min(room, count)
            equal += count
        if equal < scan.inside:
            raise _not_a_number()


def _keep_places(
    masks: Sequence[Array], scan: _Scan, values: Array, threshold: Array, k: int
) -> None:
    """Add what is kept of the gathered values to the masks."""
    keep = values > threshold
    room = k - scan.above - int(np.count_nonzero(keep))
    keep[np.flatnonzero(values == threshold)[:room]] = True
    start = 0
    for mask, places in zip(masks, scan.places):
        assert places is not None
        mask[places] = keep[start : start + len(places)]
        start += len(places)


def _refuse_nan(values: Array) -> Array:
    if np.isnan(values).any():
        raise _not_a_number()
    return values


def _not_a_number() -> FloatingPointError:
    return FloatingPointError("cannot choose a mask: an importance is NaN")


def _following(scan: _Scan, threshold: float, numel: int) -> Bracket:
    """A bracket about ``threshold`` that would hold one value in `_INSIDE` of those just seen."""
    sides = (float(scan.high) - threshold, threshold - float(scan.low))
    finite = [side for side in sides if math.isfinite(side)]
    reach = sum(finite) / max(len(finite), 1) * min(numel / _INSIDE / scan.inside, 4.0)
    return Bracket(threshold - reach, threshold + reach)


def _kth_largest(values: Array, k: int) -> Array:
    """The k-th largest of a 1-D array, NaN counting as the largest."""
    rank = len(values) - k
    return np.partition(values, rank)[rank]


def _split(array: Array) -> list[Array]:
    return [array[start : start + _CHUNK] for start in range(0, len(array), _CHUNK)]
