"""`speechprune masks iou`: overlaps by hand, chance by simulation, one line for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mask_files import Files, run, succeed

from speechprune.checkpoint import read, write
from speechprune.curves import Curve, Panel, line_panels
from speechprune.masking.mask_set import MaskSet
from speechprune.reports.mask_sweep import Sweep, group
from speechprune.rewriting.baseline_masks import Ranking

PNG = b"\x89PNG"


def masks(**kept: range) -> MaskSet:
    """Masks of 100 weights by site; the numbers of those that are kept."""
    flat = {name: torch.zeros(100, dtype=torch.bool) for name in kept}
    for name, numbers in kept.items():
        flat[name][list(numbers)] = True
    return MaskSet({name: mask.reshape(10, 10) for name, mask in flat.items()})


def random_masks(densities: tuple[float, ...], seed: int) -> MaskSet:
    generator = torch.Generator().manual_seed(seed)
    sites = {}
    for number, density in enumerate(densities):
        mask = torch.zeros(900, dtype=torch.bool)
        mask[torch.randperm(900, generator=generator)[: round(900 * density)]] = True
        sites[f"site{number}"] = mask
    return MaskSet(sites)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def other(files: Files) -> Path:
    """The plain model after some training: half of the noise is new."""
    state = read(files.plain)
    generator = torch.Generator().manual_seed(3)
    for key, weight in state["model"].items():
        if weight.is_floating_point() and weight.dim() == 2:
            noise = torch.randn(weight.shape, generator=generator)
            state["model"][key] = weight + 0.5 * weight.std() * noise
    path = files.folder / "other.pt"
    write(state, path)
    return path


def test_overlaps_of_masks_of_equal_density_are_those_counted_by_hand() -> None:
    found = group(
        ["a", "b", "c", "lone", "d"],
        [
            masks(w=range(0, 50)),
            masks(w=range(25, 75)),
            masks(w=range(50, 100)),
            masks(w=range(0, 70)),
            masks(w=range(0, 20)),
        ],
    )
    assert found.left_out == ("lone", "d")
    (point,) = found.points
    assert point.sparsity == pytest.approx(0.5)
    assert {(a, b): o.iou for a, b, o in point.pairs} == {
        ("a", "b"): pytest.approx(25 / 75),
        ("a", "c"): 0.0,
        ("b", "c"): pytest.approx(25 / 75),
    }
    assert point.iou == pytest.approx(2 / 9)
    assert point.iou_by_chance == pytest.approx(1 / 3) == point.iou_of_even_masks


def test_groups_are_of_equal_densities_and_rise_in_sparsity() -> None:
    sizes = {"p": 30, "q": 80, "r": 80, "s": 30, "t": 29}
    found = group(list(sizes), [masks(w=range(size)) for size in sizes.values()])
    assert [round(point.sparsity, 6) for point in found.points] == [0.2, 0.7]
    assert [[pair[:2] for pair in point.pairs] for point in found.points] == [
        [("q", "r")],
        [("p", "s")],
    ]
    assert found.left_out == ("t",)


@pytest.mark.parametrize("densities", [(0.4, 0.4), (0.7, 0.1)], ids=["even", "uneven"])
def test_random_masks_lie_on_the_line_of_chance(densities: tuple[float, ...]) -> None:
    count = 24
    sets = [random_masks(densities, seed) for seed in range(count)]
    (point,) = group([str(number) for number in range(count)], sets).points
    assert len(point.pairs) == count * (count - 1) // 2
    assert point.iou == pytest.approx(point.iou_by_chance, abs=0.004)
    even = 0.4 / (2 - 0.4)
    assert point.iou_of_even_masks == pytest.approx(even)
    assert (point.iou_by_chance > even + 0.05) == (densities[0] != densities[1])


def test_masks_are_made_at_each_sparsity_and_compared(files: Files, other: Path) -> None:
    pictured = files.folder / "iou.png"
    line = ["iou", files.plain, other, "--sparsity", 0.8, "--sparsity", 0.25, "--figure", pictured]
    found = json.loads(succeed(*line, "--json"))
    assert [point["sparsity"] for point in found["points"]] == pytest.approx([0.25, 0.8], abs=1e-3)
    for point, sparsity in zip(found["points"], (0.25, 0.8)):
        first, second = (
            Ranking(path, "global-magnitude").masks(sparsity) for path in (files.plain, other)
        )
        both = sum(int((first[name] & second[name]).sum()) for name in first)
        either = sum(int((first[name] | second[name]).sum()) for name in first)
        (pair,) = point["pairs"]
        assert pair["iou"] == point["iou"] == pytest.approx(both / either)
        assert point["iou_by_chance"] + 0.03 < point["iou"] < 1.0
        density = 1 - point["sparsity"]
        assert point["iou_of_even_masks"] == pytest.approx(density / (2 - density))
    assert pictured.read_bytes().startswith(PNG)
    shown = succeed(*line).splitlines()
    assert shown[0].split() == ["sparsity", "%", "IOU", "by", "chance", "d/(2-d)"]
    assert shown[1].split()[-4:-2] == ["25.0", f"{found['points'][0]['iou']:.4f}"]


def test_biases_are_masked_unless_told_otherwise(files: Files, other: Path) -> None:
    line = ["iou", files.plain, other, "--sparsity", 0.5, "--by", "magnitude", "--json"]
    with_biases = json.loads(succeed(*line))["points"][0]
    without = json.loads(succeed(*line, "--no-biases"))["points"][0]
    assert with_biases["iou"] != without["iou"]
    # One density for every tensor: both kinds of chance are the same.
    assert without["iou_by_chance"] == pytest.approx(1 / 3)


def test_masks_of_random_models_overlap_by_chance(files: Files, other: Path) -> None:
    line = ["iou", files.plain, other, "--sparsity", 0.5, "--by", "random", "--no-biases", "--json"]
    (point,) = json.loads(succeed(*line))["points"]
    assert point["iou"] == pytest.approx(1 / 3, abs=0.02)


def test_own_masks_are_compared_from_checkpoints_and_mask_files(
    files: Files, tmp_path: Path
) -> None:
    exported = tmp_path / "french.safetensors"
    succeed("export", files.french, exported)
    line = ["iou", "--own", files.spanish, files.french, exported, "--json"]
    found = json.loads(succeed(*line))
    (point,) = found["points"]
    assert point["iou"] == 1.0 and point["sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert [Path(name).name for name in found["left_out"]] == ["spanish"]
    assert "without another of equal density: " in succeed(*line[:-1])


def test_many_pairs_are_drawn(tmp_path: Path) -> None:
    points = []
    for density in (0.3, 0.6):
        sets = [random_masks((density,), seed) for seed in range(5)]
        points += group([*"abcde"], sets).points
    few = Sweep(tuple(point.__class__(point.sparsity, point.pairs[:1]) for point in points))
    sizes = []
    for found in (Sweep(tuple(points)), few):
        found.draw(tmp_path / "iou.png")
        sizes.append((tmp_path / "iou.png").read_bytes())
        assert sizes[-1].startswith(PNG)
    assert sizes[0] != sizes[1]


def test_a_curve_needs_a_value_at_each_place(tmp_path: Path) -> None:
    panel = Panel("x", "y", {"a": Curve([1.0, 2.0], [1.0])})
    with pytest.raises(ValueError, match="1 values of 'a' at 2 places"):
        line_panels([panel], tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line, reason",
    [
        ("plain", "give two or more"),
        ("--own whole", "give two or more"),
        ("plain missing", "does not exist"),
        ("plain text", "no PyTorch checkpoint"),
        ("plain whole", "is a mask file; to compare masks as they are, give --own"),
        ("plain deep --sparsity 0.5", "cannot be compared: masks of another model"),
        ("plain plain --sparsity 1.0", "[0, 1)"),
        ("plain plain --sparsity 0.5 --sparsity -0.1", "[0, 1)"),
        ("plain plain --by magic", "magic"),
        ("plain spanish --own", "holds no masks"),
        ("spanish french --own", "no two of these masks have equal densities"),
        ("spanish deep --own", "cannot be compared: masks of another model"),
        ("spanish whole --own --sparsity 0.5", "--own makes no masks"),
        ("spanish whole --own --no-biases", "--own makes no masks"),
        ("spanish whole --own --figure nowhere", "No such file"),
        ("spanish whole --own --figure whole", "would be overwritten"),
        ("plain missing --figure iou.jpg", "iou.jpg cannot be drawn; name a file that ends in"),
    ],
)
def test_bad_input_is_told_in_one_line(
    files: Files, tmp_path: Path, line: str, reason: str
) -> None:
    named = {
        "plain": files.plain,
        "spanish": files.spanish,
        "french": files.french,
        "deep": files.deep,
        "missing": tmp_path / "missing.pt",
        "nowhere": tmp_path / "no" / "iou.png",
        "whole": tmp_path / "whole.safetensors",
        "text": tmp_path / "text",
    }
    MaskSet({"w": torch.ones(3, dtype=torch.bool)}).save(named["whole"])
    if "--own" in line:
        succeed("export", files.spanish, named["whole"])
    named["text"].write_text("not a checkpoint\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    result = run("iou", *(named.get(word, word) for word in line.split()))
    assert result.exit_code != 0
    assert result.stderr.startswith("speechprune: error: ") and result.stderr.count("\n") == 1
    assert reason in result.stderr
    assert result.stdout == ""
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
