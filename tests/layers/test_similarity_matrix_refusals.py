"""SimilarityMatrix: damaged and foreign files are refused, and nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from matrices import refused, some_matrix, values
from safetensors.numpy import save_file

from speechprune.layers.matrix import SimilarityMatrix

FORMAT = "speechprune.similarity_matrix"


@pytest.mark.parametrize("kind", ["ours", "bare"])
def test_a_truncated_file_is_refused_wherever_it_ends(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "matrix.npy"
    some_matrix().save(path)
    if kind == "bare":
        np.save(path, values())
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


def test_a_bare_array_is_refused_if_it_is_no_similarity(tmp_path: Path) -> None:
    path = tmp_path / "matrix.npy"
    outside = values()
    outside[1, 3] = outside[3, 1] = 1.001
    for given, message in (
        (outside, r"states 1 and 3 is 1.001, outside of \[-1, 1\]"),
        (-outside, r"states 1 and 3 is -1.001, outside of \[-1, 1\]"),
        (np.tril(values()), "not symmetric"),
    ):
        np.save(path, given)
        refused(path, message)
    np.save(path, -values() + 1e-7 * np.random.default_rng(0).normal(size=(5, 5)))
    SimilarityMatrix.load(path)


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
        lambda header, tensors: tensors.update(similarity=values() + 0.1),
        lambda header, tensors: tensors.update(similarity=values() - 0.1),
        lambda header, tensors: tensors.update(similarity=np.triu(values())),
        lambda header, tensors: header.update(sha256="0" * 64),
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
