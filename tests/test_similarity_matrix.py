"""SimilarityMatrix: its files, those that CoMFLP published, and those that are neither."""

from __future__ import annotations

import errno
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from speechprune.errors import UserError
from speechprune.layers.matrix import SimilarityMatrix

FORMAT = "speechprune.similarity_matrix"


def values(states: int = 5, seed: int = 0) -> NDArray:
    """Asymmetric, so that a transposition shows."""
    return np.random.default_rng(seed).normal(size=(states, states))


@pytest.fixture
def matrix() -> SimilarityMatrix:
    provenance = {"checkpoint": "base.pt ∅", "settings": {"threshold": 0.99}, "utterances": 96}
    return SimilarityMatrix(values(), "svcca", 0.24, provenance)


def refused(path: Path, message: str = "") -> None:
    with pytest.raises(UserError, match=message) as refusal:
        SimilarityMatrix.load(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


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
        given = np.arange(9).reshape(3, 3).astype(dtype)
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
    given = np.asarray((10 * values()).astype(dtype), order=order)
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


@pytest.mark.parametrize("kind", ["ours", "bare"])
def test_a_truncated_file_is_refused_wherever_it_ends(
    kind: str, matrix: SimilarityMatrix, tmp_path: Path
) -> None:
    path = tmp_path / "matrix.npy"
    matrix.save(path)
    if kind == "bare":
        np.save(path, matrix.values)
    whole = path.read_bytes()
    SimilarityMatrix.load(path)
    for size in (*range(0, len(whole) - 8, 7), len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path)


@pytest.mark.parametrize(
    "before, after",
    [
        (b"{'descr'", b"x'descr'"),
        (b"{'descr'", b"  descr'"),
        (b"'<f8'", b"'<08'"),
        (b"'<f8'", b"'???'"),
        (b"'descr'", b"\xff\xffescr'"),
        (b"(5, 5)", b"(5, a)"),
        (b"(5, 5)", b"(5, 6)"),
        (b"(5, 5)", b"(-5,5)"),
        (b"(5, 5), }", b"(9**9,1<9"),
        (b"(5, 5), }            ", b"(1048576,2097152), }  "),
        (b"(5, 5), }", b"(5, 5),  "),
        (b"NUMPY\x01", b"NUMPY\x09"),
    ],
)
def test_a_damaged_header_of_an_array_is_refused(
    before: bytes, after: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "matrix.npy"
    np.save(path, values())
    whole = path.read_bytes()
    assert whole.count(before) == 1
    path.write_bytes(whole.replace(before, after))
    refused(path)


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.folder),)


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    path, folder = tmp_path / "matrix.npy", tmp_path / "executed"
    array = np.full((2, 2), Evil(folder))
    np.save(path, array, allow_pickle=True)
    refused(path)
    path.write_bytes(pickle.dumps(Evil(folder)))
    refused(path)
    torch.save(Evil(folder), path)
    refused(path)
    with zipfile.ZipFile(path, "w") as archive, archive.open("similarity.npy", "w") as file:
        np.lib.format.write_array(file, array, allow_pickle=True)
    refused(path)
    assert not folder.exists()
    with np.load(path, allow_pickle=True) as archive:
        archive["similarity"]
    assert folder.exists()


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "matrix.safetensors"
    refused(path, "no such file")
    refused(tmp_path, "no such file")
    path.write_text("no matrix here\n" * 20)
    refused(path)
    path.write_text("[[1.0, 0.5], [0.5, 1.0]]\n")
    refused(path)
    torch.save(torch.ones(3, 3), path)
    refused(path)
    with open(path, "wb") as file:
        np.savez(file, similarity=values())
    refused(path)
    save_file({"similarity": values()}, path)
    refused(path)
    save_file({"similarity": values()}, path, {"speechprune.mask_set": "{}"})
    refused(path)


def damage(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Write a file with ``change(header, tensors)`` made."""
    header = {
        "format": FORMAT,
        "version": 1,
        "measure": "cka",
        "floor": 0.1,
        "provenance": {},
    }
    tensors = {"similarity": values()}
    change(header, tensors)
    save_file(tensors, path, {FORMAT: json.dumps(header)})


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "matrix"
    damage(path, lambda header, tensors: None)
    assert np.array_equal(SimilarityMatrix.load(path).values, values())
    damage(path, lambda header, tensors: header.update(version=2))
    refused(path, "version 2; .* 1")


@pytest.mark.parametrize(
    "change",
    [
        lambda header, tensors: header.pop("version"),
        lambda header, tensors: header.pop("measure"),
        lambda header, tensors: header.pop("floor"),
        lambda header, tensors: header.pop("provenance"),
        lambda header, tensors: header.update(version="1"),
        lambda header, tensors: tensors.update(other=tensors.pop("similarity")),
        lambda header, tensors: tensors.update(similarity=np.ones((3, 4))),
        lambda header, tensors: tensors.update(similarity=np.ones(9)),
        lambda header, tensors: tensors.update(similarity=np.ones((1, 1))),
        lambda header, tensors: tensors.update(similarity=np.ones((3, 3), bool)),
        lambda header, tensors: tensors.update(similarity=np.full((3, 3), np.nan)),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any], dict[str, Any]], Any], tmp_path: Path
) -> None:
    path = tmp_path / "matrix"
    damage(path, change)
    refused(path)


@pytest.mark.parametrize("header", ["[]", "{}", "3", "null", '"version"', "{", ""])
def test_a_header_that_is_none_is_refused(header: str, tmp_path: Path) -> None:
    path = tmp_path / "matrix"
    save_file({"similarity": values()}, path, {FORMAT: header})
    refused(path)


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
