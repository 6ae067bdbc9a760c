"""Masks in as few bytes as their densities allow: close to the entropy of independent bits.

zstd's Huffman codes spend at least one bit per byte, so what they are given has to be neither too
regular nor too rare: masks of about half density are coded as packed bits, eight to the byte; all
others as the gaps between the rarer of kept and removed entries. A gap's low bits, which are nearly
uniform, are kept as they are, and its high part is a byte, after as many bytes of 255 as it takes.
"""

from __future__ import annotations

from math import log2

import numpy as np
from backports import zstd

from speechprune.errors import UserError

#: What a stream begins with: how it is coded.
_BITS, _GAPS_OF_ONES, _GAPS_OF_ZEROS = range(3)
#: The byte of a gap's high part that says: this many, and more.
_MORE = 255
#: About what a mean gap's high part comes to: large enough for Huffman's whole bits.
_HIGH = 40
#: Shift, and the sizes of the two parts of coded gaps.
_HEAD = 17
_LEVEL = 1


def entropy(density: float, entries: int) -> float:
    """Bytes that independent bits of a density take at the least: n H(p) / 8."""
    if not 0.0 < density < 1.0:
        return 0.0
    each = density * log2(density) + (1.0 - density) * log2(1.0 - density)
    return -each * entries / 8


def encode(bits: np.ndarray, entries: int) -> bytes:
    """The shortest of the codings of packed bits.

    Args:
        bits: uint8, ((entries + 7) // 8,), little bit order, unused bits 0.
    """
    flags = np.unpackbits(bits, count=entries, bitorder="little").view(np.bool_)
    ones = int(np.count_nonzero(flags))
    rare, kind = (flags, _GAPS_OF_ONES) if 2 * ones <= entries else (~flags, _GAPS_OF_ZEROS)
    packed = bytes([_BITS]) + zstd.compress(bits.tobytes(), _LEVEL)
    gaps = bytes([kind]) + _encode_gaps(np.flatnonzero(rare), entries)
    return min(packed, gaps, key=len)


def decode(data: bytes, entries: int) -> np.ndarray:
    """What `encode` was given: uint8, ((entries + 7) // 8,).

    Raises:
        UserError: these are not the bits of as many entries.
    """
    if not data or data[0] > _GAPS_OF_ZEROS:
        raise UserError("a coded mask begins with another byte than any coding does")
    kind, rest = data[0], data[1:]
    if kind == _BITS:
        return _decompressed(rest, (entries + 7) // 8, exactly=True)
    flags = np.full(entries, kind == _GAPS_OF_ZEROS)
    flags[_decode_gaps(rest, entries)] = kind == _GAPS_OF_ONES
    return np.packbits(flags, bitorder="little")


def _encode_gaps(places: np.ndarray, entries: int) -> bytes:
    """Gaps between ascending places among ``entries``."""
    gaps = np.diff(places, prepend=-1) - 1
    mean = entries / max(1, len(places))
    shift = max(0, int(log2(mean / _HIGH))) if mean > _HIGH else 0
    more, last = np.divmod(gaps >> shift, _MORE)
    high = np.full(len(gaps) + int(more.sum()), _MORE, dtype=np.uint8)
    high[np.cumsum(more + 1) - 1] = last
    low = (gaps & ((1 << shift) - 1)).astype("<u4").view(np.uint8).reshape(-1, 4)
    low_bits = np.unpackbits(low, axis=1, bitorder="little")[:, :shift]
    coded = zstd.compress(high.tobytes(), _LEVEL)
    head = bytes([shift]) + len(places).to_bytes(8, "little") + len(coded).to_bytes(8, "little")
    return head + coded + np.packbits(low_bits, bitorder="little").tobytes()


def _decode_gaps(data: bytes, entries: int) -> np.ndarray:
    """The places that `_encode_gaps` was given; UserError if they are none of ``entries``."""
    head, rest = data[:_HEAD], data[_HEAD:]
    shift = head[0] if head else 0
    count, size = (int.from_bytes(head[at : at + 8], "little") for at in (1, 9))
    # No gap's low bits reach beyond all entries, so that no sum below can overflow.
    if len(head) < _HEAD or (shift and not entries >> shift) or shift > 32 or count > entries:
        raise UserError("a coded mask has gaps that its entries have no room for")
    if size > len(rest):
        raise UserError("a coded mask is cut short")
    high = _decompressed(rest[:size], count + (entries >> shift) // _MORE, exactly=False)
    low = _low_parts(rest[size:], count, shift)
    ends = np.flatnonzero(high != _MORE)
    if len(ends) != count or (len(high) and high[-1] == _MORE):
        raise UserError("a coded mask has another number of gaps than it says")
    places = _sums(high)[ends]
    if count and places[-1] > entries >> shift:
        raise UserError("a coded mask has gaps that its entries have no room for")
    places <<= shift
    places += np.arange(count)
    if low is not None:
        places += _sums(low)
    if count and places[-1] >= entries:
        raise UserError("a coded mask has gaps that its entries have no room for")
    return places


def _sums(parts: np.ndarray) -> np.ndarray:
    """Cumulative sums, int64: numpy takes twice as long where it converts while it adds."""
    sums = parts.astype(np.int64)
    found: np.ndarray = np.cumsum(sums, out=sums)
    return found


def _low_parts(data: bytes, count: int, shift: int) -> np.ndarray | None:
    """The low bits of gaps, int64 (count,); None if there are none."""
    if len(data) != (count * shift + 7) // 8:
        raise UserError("a coded mask is cut short")
    if not shift:
        return None
    packed = np.frombuffer(data, dtype=np.uint8)
    bits = np.unpackbits(packed, count=count * shift, bitorder="little").reshape(count, shift)
    return bits @ (1 << np.arange(shift, dtype=np.int64))


def _decompressed(data: bytes, most: int, *, exactly: bool) -> np.ndarray:
    """At most so many bytes, whatever a few bytes of a file stand for."""
    decompressor = zstd.ZstdDecompressor()
    try:
        found = decompressor.decompress(data, max_length=most + 1)
    except zstd.ZstdError as error:
        raise UserError(f"a coded mask is damaged ({error})") from error
    if len(found) > most or not decompressor.eof or decompressor.unused_data:
        raise UserError("a coded mask has another number of bytes than its entries take")
    if exactly and len(found) != most:
        raise UserError("a coded mask has another number of bytes than its entries take")
    return np.frombuffer(found, dtype=np.uint8)
