"""Figures: a picture of the right kind, or nothing."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest

from speechprune.errors import UserError
from speechprune.figures import heat_map


def size(path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    contents = path.read_bytes()
    assert contents.startswith(b"\x89PNG")
    return struct.unpack(">II", contents[16:24])


def test_a_heat_map_grows_with_the_matrix_and_with_its_labels(tmp_path):
    sizes = []
    for count, label in ((4, "es"), (8, "es"), (8, "a checkpoint with a long name")):
        path = tmp_path / "map.png"
        heat_map(np.eye(count), [f"{label}{i}" for i in range(count)], path, "title")
        sizes.append(size(path))
    (small, large, wide) = sizes
    assert large[0] > small[0] and large[1] > small[1]
    assert wide[0] > large[0] and wide[1] > large[1]
    assert os.listdir(tmp_path) == ["map.png"]


def test_a_heat_map_is_the_same_each_time(tmp_path):
    matrix = np.random.default_rng(0).uniform(size=(3, 3))
    for name in ("a.png", "b.png"):
        heat_map(matrix, ["x", "y", "z"], tmp_path / name, "title", 0.2, 0.9)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_labels_must_fit_the_matrix(tmp_path):
    with pytest.raises(ValueError, match="2 labels"):
        heat_map(np.eye(3), ["a", "b"], tmp_path / "map.png")


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        heat_map(np.eye(2), ["a", "b"], tmp_path / "no" / "map.png")
