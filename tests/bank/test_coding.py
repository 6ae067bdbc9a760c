"""Coded masks come back as they were, and take about their entropy."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from backports import zstd
from checkpoints import refusal

from speechprune.bank.coding import decode, encode, entropy

LARGE = 1 << 20


def packed(flags: np.ndarray) -> np.ndarray:
    return np.packbits(flags.reshape(-1), bitorder="little")


def independent(density: float, entries: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(entries) < density


@pytest.mark.parametrize("entries", [1, 7, 8, 9, 100, 1000, 65537])
@pytest.mark.parametrize("density", [0.0, 1e-4, 0.003, 0.1, 0.5, 0.7, 0.99, 0.9999, 1.0])
def test_bits_come_back(density: float, entries: int) -> None:
    for seed in range(3):
        bits = packed(independent(density, entries, seed))
        assert np.array_equal(decode(encode(bits, entries), entries), bits)


def test_bits_that_come_in_bursts_come_back() -> None:
    """Gaps of every length, among them those on both sides of each step of the code."""
    for seed in range(20):
        generator = np.random.default_rng(seed)
        lengths = generator.integers(1, 10 ** generator.integers(1, 5), 200)
        flags = np.repeat(np.arange(200) % 2 == seed % 2, lengths)
        bits = packed(flags)
        assert np.array_equal(decode(encode(bits, len(flags)), len(flags)), bits)
    for gap in (254, 255, 256, 510, 511, 255 * 40, 255 * 64 - 1, 255 * 64):
        flags = np.zeros(1 << 17, dtype=bool)
        flags[:: gap + 1] = True
        for each in (flags, ~flags):
            bits = packed(each)
            assert np.array_equal(decode(encode(bits, len(flags)), len(flags)), bits), gap


@pytest.mark.parametrize(
    "density", [0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]
)
def test_independent_bits_take_at_most_a_twentieth_more_than_their_entropy(density: float) -> None:
    flags = independent(density, LARGE)
    p = flags.mean()
    bound = -(p * log2(p) + (1 - p) * log2(1 - p)) * LARGE / 8
    assert entropy(p, LARGE) == pytest.approx(bound)
    assert bound * 0.99 < len(encode(packed(flags), LARGE)) <= 1.05 * bound


@pytest.mark.parametrize("rows_kept", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("axis", [0, 1])
def test_whole_rows_and_columns_take_far_less(rows_kept: float, axis: int) -> None:
    flags = np.broadcast_to(independent(rows_kept, 1024)[:, None], (1024, 1024))
    flags = np.ascontiguousarray(flags.swapaxes(0, axis))
    assert len(encode(packed(flags), LARGE)) < 0.1 * entropy(flags.mean(), LARGE)


def test_the_entropy_of_what_is_certain_is_nothing() -> None:
    assert entropy(0.0, LARGE) == entropy(1.0, LARGE) == 0.0


def test_damaged_codes_are_refused_or_are_bits_of_as_many_entries() -> None:
    entries = 5000
    random = np.random.default_rng(0)
    refused = 0
    for density in (0.01, 0.3, 0.5, 0.95):
        code = encode(packed(independent(density, entries)), entries)
        for _ in range(300):
            damaged = bytearray(code)
            damaged[random.integers(len(code))] ^= 1 << int(random.integers(8))
            cut = len(code) if random.random() < 0.5 else random.integers(len(code))
            try:
                assert len(decode(bytes(damaged[:cut]), entries)) == entries // 8
            except Exception as error:
                assert type(error).__name__ == "UserError" and "\n" not in str(error), error
                refused += 1
    assert refused > 600


def gaps(shift: int, count: int, high: bytes, low: bytes = b"", kind: int = 1) -> bytes:
    coded = zstd.compress(high)
    numbers = count.to_bytes(8, "little") + len(coded).to_bytes(8, "little")
    return bytes([kind, shift]) + numbers + coded + low


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (b"", "begins with"),
        (b"\7", "begins with"),
        (b"\0" + zstd.compress(bytes(10**8)), "another number of bytes"),  # a bomb
        (b"\0" + zstd.compress(bytes(3)), "another number of bytes"),
        (b"\0" + zstd.compress(bytes(125))[:-1], "another number of bytes"),
        (b"\0" + zstd.compress(bytes(125)) + b"more", "another number of bytes"),
        (b"\0" + b"no frame", "damaged"),
        (gaps(0, 1, bytes(10**8)), "another number of bytes"),
        (gaps(0, 1, bytes([255] * 5)), "another number of bytes"),
        (gaps(0, 2, b"\1"), "another number of gaps"),
        (gaps(0, 1, b"\xff"), "another number of gaps"),
        (gaps(0, 1001, bytes(1001)), "no room"),
        (gaps(0, 5, b"\xfe" * 5), "no room"),
        (gaps(40, 1, b"\0", bytes(5)), "no room"),
        (gaps(32, 2, b"\0\0", bytes([255] * 8)), "no room"),
        (gaps(9, 2, b"\1\1", bytes(3)), "no room"),
        (gaps(9, 1, b"\1", b"\xff\1"), "no room"),
        (gaps(3, 1, b"\1", b"\0\0"), "cut short"),
        (gaps(3, 1, b"\1"), "cut short"),
        (gaps(0, 1, b"\1")[:-1], "cut short"),
        (gaps(0, 1, b"\1")[:12], "no room"),
    ],
)
def test_hostile_codes_end_in_one_line(code: bytes, what: str) -> None:
    assert what in refusal(decode, code, 1000)
