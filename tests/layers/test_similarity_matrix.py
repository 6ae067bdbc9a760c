"""SimilarityMatrix: its values, its files, and those that CoMFLP published."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matrices import refused, some_matrix, values

from speechprune.errors import UserError
from speechprune.layers.matrix import SimilarityMatrix


@pytest.fixture
def matrix() -> SimilarityMatrix:
    return some_matrix()


def test_a_file_gives_back_values_and_where_they_came_from(
    matrix: SimilarityMatrix, tmp_path: Path
) -> None:
    path = tmp_path / "matrix.safetensors"
    matrix.save(path)
    for loaded in (SimilarityMatrix.load(path), SimilarityMatrix.load(str(path))):
        assert np.array_equal(loaded.values, matrix.values)
        assert loaded.values.dtype == np.float64
        assert (loaded.measure, loaded.floor) == ("svcca", 0.24)
        assert loaded.provenance == matrix.provenance
        assert loaded.layers == 4


def test_what_is_not_known_stays_so(tmp_path: Path) -> None:
    SimilarityMatrix(values()).save(tmp_path / "matrix")
    loaded = SimilarityMatrix.load(tmp_path / "matrix")
    assert (loaded.measure, loaded.floor, loaded.provenance) == ("", None, {})


def test_equal_values_are_equal_files(matrix: SimilarityMatrix, tmp_path: Path) -> None:
    path = tmp_path / "matrix.safetensors"
    contents = set()
    backwards = dict(reversed(list(matrix.provenance.items())))
    for same in (
        matrix.values,
        np.asfortranarray(matrix.values),
        matrix.values.T.copy().T,
        np.repeat(matrix.values, 2, axis=1)[:, ::2],
        matrix.values.astype(">f8"),
    ):
        for provenance in (matrix.provenance, backwards):
            SimilarityMatrix(same, "svcca", 0.24, provenance).save(path)
            contents.add(path.read_bytes())
            assert np.array_equal(SimilarityMatrix.load(path).values, matrix.values)
    assert len(contents) == 1


def test_numbers_of_any_kind_become_float64(tmp_path: Path) -> None:
    path = tmp_path / "matrix"
    for dtype in (np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8):
        given = (np.eye(3) + np.eye(3)[::-1]).clip(0, 1).astype(dtype)
        found = SimilarityMatrix(given)
        found.save(path)
        for each in (found, SimilarityMatrix.load(path)):
            assert each.values.dtype == np.float64
            assert each.values.tolist() == given.tolist()


def test_the_caller_keeps_its_array() -> None:
    given = values()
    matrix = SimilarityMatrix(given)
    given[:] = 0.0
    assert np.array_equal(matrix.values, values())


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<f2", "<i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_bare_array(dtype: str, order: str, tmp_path: Path) -> None:
    given = np.asarray((2 * values() - 1).astype(dtype), order=order)
    path = tmp_path / "matrix.npy"
    np.save(path, given)
    path.rename(tmp_path / "any name")
    loaded = SimilarityMatrix.load(tmp_path / "any name")
    assert np.array_equal(loaded.values, given.astype(np.float64))
    assert loaded.values.dtype == np.dtype("=f8")
    assert (loaded.measure, loaded.floor, loaded.provenance) == ("", None, {})


def test_the_published_matrices(shared_data: Path) -> None:
    files = sorted((shared_data / "comflp").glob("*.npy"))
    assert len(files) == 2
    for file in files:
        matrix = SimilarityMatrix.load(file)
        assert matrix.layers == 12
        assert np.array_equal(matrix.values, np.load(file).astype(np.float64))
        assert np.allclose(np.diag(matrix.values), 1.0, atol=1e-3)


@pytest.mark.parametrize(
    "given, message",
    [
        (np.ones((3, 4)), r"square, not of shape \(3, 4\)"),
        (np.ones(9), r"square, not of shape \(9,\)"),
        (np.ones((2, 2, 2)), r"square, not of shape \(2, 2, 2\)"),
        (np.float64(1.0), r"square, not of shape \(\)"),
        (np.ones((1, 1)), "without layers"),
        (np.ones((0, 0)), "without layers"),
        (np.array([[1.0, np.nan], [0.5, 1.0]]), "not finite"),
        (np.array([[1.0, 0.5], [-np.inf, 1.0]]), "not finite"),
        (np.ones((2, 2), dtype=bool), "bool"),
        (np.ones((2, 2), dtype=complex), "complex"),
        (np.full((2, 2), "1"), "U1"),
        (np.full((2, 2), None), "object"),
    ],
)
def test_what_is_no_matrix_of_similarities_is_refused(
    given: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        SimilarityMatrix(given)
    assert "\n" not in str(refusal.value)
    path = tmp_path / "matrix.npy"
    np.save(path, given)
    refused(path, None if np.asarray(given).dtype == object else message)


def test_a_full_disk_leaves_the_old_file_whole(
    matrix: SimilarityMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "matrix.safetensors"
    matrix.save(path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        SimilarityMatrix(values(seed=1)).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_is_missing_is_told(matrix: SimilarityMatrix, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        matrix.save(tmp_path / "nowhere" / "matrix.safetensors")
