"""Tensors on the disk are those that were saved, and stay so when the file is replaced."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from banks import equal
from checkpoints import refusal
from safetensors.numpy import save_file

from speechprune.bank.stored import StoredTensors

TENSORS = {
    "weight": np.arange(40000, dtype=np.float32).reshape(200, 200),
    "half": np.full((3, 5), 0.5, dtype=np.float16),
    "bytes": np.arange(7, dtype=np.uint8),
    "count": np.array(9),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "stored.safetensors", {"key": "text"})
    return tmp_path / "stored.safetensors"


def test_tensors_are_those_that_were_saved(path: Path) -> None:
    stored = StoredTensors(path)
    assert equal(TENSORS, dict(stored)) and dict(stored.metadata) == {"key": "text"}
    for name, array in TENSORS.items():
        assert stored.shape(name) == array.shape and stored.nbytes(name) == array.nbytes
    assert {name for name in stored if stored.is_number(name)} == {"count", "half", "weight"}
    assert [name for name in stored if stored.is_bytes(name)] == ["bytes"]
    with pytest.raises(ValueError):
        stored["weight"][0, 0] = 1


def test_they_outlive_their_file(path: Path) -> None:
    stored = StoredTensors(path)
    save_file({"weight": np.zeros(3, dtype=np.float32)}, path.with_name("other"))
    os.replace(path.with_name("other"), path)
    stored.forget_pages()
    for name in stored:
        stored.forget_pages_of(name)
    assert equal(TENSORS, dict(stored))


def test_pages_are_let_go_of(tmp_path: Path) -> None:
    large = {"weight": np.ones(1 << 22, dtype=np.float32), "other": np.ones(5, dtype=np.float32)}
    save_file(large, tmp_path / "large")
    stored = StoredTensors(tmp_path / "large")
    before = _resident()
    assert stored["weight"].sum() == 1 << 22
    read = _resident() - before
    stored.forget_pages_of("weight")
    assert read > 15 << 20 and _resident() - before < 4 << 20


def _resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _written(path: Path, header: object, data: bytes, size: int | None = None) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + data)
    return path


def _one(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (_one("F64", [1], 0, 8), bytes(8)),
        (_one("BF16", [1], 0, 2), bytes(2)),
        (_one("F32", [1 << 60], 0, 1 << 62), bytes(8)),
        (_one("F32", [1 << 62, 4], 0, 0), b""),  # whose product overflows
        (_one("F32", [2], 0, 4), bytes(4)),
        (_one("F32", [1], -4, 0), b""),
        (_one("F32", [1], 4, 8), bytes(8)),
        (_one("F32", [1], 0, 4), bytes(9)),
        (_one("X", [1], 0, 4), bytes(4)),
        ({"a": 1}, b""),
        ([], b""),
        ({"__metadata__": {"a": 1}}, b""),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, header: object, data: bytes) -> None:
    path = _written(tmp_path / "bad", header, data)
    assert str(path) in refusal(StoredTensors, path)


@pytest.mark.parametrize("size", [0, 1 << 40, (1 << 64) - 1])
def test_a_header_of_any_size_is_bounded(tmp_path: Path, size: int) -> None:
    path = _written(tmp_path / "bad", {}, b"", size)
    assert "not a bank, or damaged" in refusal(StoredTensors, path)


def test_what_is_no_file_of_tensors_is_refused(tmp_path: Path, path: Path) -> None:
    for content in (b"", b"text", b"PK\3\4" + bytes(100), path.read_bytes()[:-1]):
        (tmp_path / "bad").write_bytes(content)
        assert "not a bank, or damaged" in refusal(StoredTensors, tmp_path / "bad")
    (tmp_path / "deep").write_bytes((10**5).to_bytes(8, "little") + b"[" * 10**5)
    refusal(StoredTensors, tmp_path / "deep")
    refusal(StoredTensors, tmp_path)
