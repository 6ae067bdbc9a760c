"""Figures: a picture of the right kind, or nothing."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest

from speechprune.errors import UserError
from speechprune.figures import bar_panels, heat_map


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


@pytest.mark.parametrize(
    "name, start", [("a.PNG", b"\x89PNG"), ("b.pdf", b"%PDF-1."), ("c.svg", b"<?xml")]
)
def test_the_ending_is_the_format_and_the_bytes_are_the_same_each_time(
    tmp_path, monkeypatch, name, start
):
    contents = set()
    for second in ("0", "86400"):
        # matplotlib would write this time; without it, that of the clock.
        monkeypatch.setenv("SOURCE_DATE_EPOCH", second)
        heat_map(np.eye(3), ["x", "y", "z"], tmp_path / name, "title")
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1 and contents.pop().startswith(start)


@pytest.mark.parametrize("name", ["map", "map.jpg", "map.png.txt"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} cannot be drawn; name a file that ends in .png"):
        heat_map(np.eye(3), ["x", "y", "z"], tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_bars_grow_with_their_names_and_say_their_values(tmp_path):
    names, panels = ["dense", "slim"], {"latency [ms]": [120.4, 12.34], "size [MB]": [378.0, 0.0]}
    bar_panels(names, panels, tmp_path / "bars.svg")
    drawn = (tmp_path / "bars.svg").read_text()
    assert all(f"<!-- {text} -->" in drawn for text in (*names, *panels, "120", "12.3", "378"))
    bar_panels(names, panels, tmp_path / "two.png")
    bar_panels([*names, "x"], {k: [*v, 1.0] for k, v in panels.items()}, tmp_path / "three.png")
    assert size(tmp_path / "three.png")[1] > size(tmp_path / "two.png")[1]
    with pytest.raises(ValueError, match="2 values of 'latency"):
        bar_panels(["dense"], panels, tmp_path / "none.png")


def test_labels_must_fit_the_matrix(tmp_path):
    with pytest.raises(ValueError, match="2 labels"):
        heat_map(np.eye(3), ["a", "b"], tmp_path / "map.png")


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        heat_map(np.eye(2), ["a", "b"], tmp_path / "no" / "map.png")
