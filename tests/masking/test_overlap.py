"""Overlap of masks, against plain arithmetic on booleans and against random masks."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import torch

from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.overlap import grouped, overlap, overlaps, pairwise
from speechprune.state_names import layer_of, role_of

SHAPES = {
    "encoder.layers.0.fc1.weight": (40, 31),
    "encoder.layers.0.fc2.weight": (31, 40),
    "encoder.layers.1.fc1.weight": (3, 3),
    "post_extract_proj.weight": (17, 29),
}


def exact_masks(keep: dict[str, float], seed: int) -> MaskSet:
    """Random masks that keep a fixed number of entries at each site."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, shape in SHAPES.items():
        numel = math.prod(shape)
        flat = torch.zeros(numel, dtype=torch.bool)
        flat[torch.randperm(numel, generator=generator)[: round(keep[name] * numel)]] = True
        masks[name] = flat.reshape(shape)
    return MaskSet(masks)


def even_masks(keep: float, seed: int) -> MaskSet:
    return exact_masks(dict.fromkeys(SHAPES, keep), seed)


def naive(first: MaskSet, second: MaskSet, sites) -> tuple[float, float]:
    """IOU and cosine of the concatenated booleans."""
    a = torch.cat([first[name].flatten() for name in sites])
    b = torch.cat([second[name].flatten() for name in sites])
    iou = (a & b).sum().item() / (a | b).sum().item()
    return iou, torch.cosine_similarity(a.double(), b.double(), dim=0).item()


@pytest.mark.parametrize("seed", range(5))
def test_packed_counts_equal_plain_arithmetic(seed):
    densities = np.random.default_rng(seed).uniform(0.2, 1.0, (2, len(SHAPES)))
    first, second = (
        exact_masks(dict(zip(SHAPES, row)), seed=10 * seed + i) for i, row in enumerate(densities)
    )
    total = overlap(first, second)
    assert (total.iou, total.cosine) == pytest.approx(naive(first, second, SHAPES))
    for key in (str, layer_of, role_of):
        for group, found in overlaps(first, second, key).items():
            members = [name for name in SHAPES if key(name) == group]
            assert (found.iou, found.cosine) == pytest.approx(naive(first, second, members))


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.9, 1.0])
def test_a_mask_overlaps_itself_entirely(keep):
    masks = even_masks(keep, seed=1)
    assert overlap(masks, masks).iou == 1.0 and overlap(masks, masks).cosine == 1.0


def test_disjoint_masks_do_not_overlap():
    masks = even_masks(0.3, seed=1)
    rest = MaskSet({name: ~mask for name, mask in masks.items()})
    assert overlap(masks, rest).iou == 0.0 and overlap(masks, rest).cosine == 0.0


def test_empty_masks_are_equal_to_each_other_only():
    empty, full = even_masks(0.0, seed=0), even_masks(1.0, seed=0)
    both = overlap(empty, empty)
    assert (both.iou, both.cosine, both.iou_by_chance, both.cosine_by_chance) == (1, 1, 1, 1)
    one = overlap(empty, full)
    assert (one.iou, one.cosine, one.iou_by_chance, one.cosine_by_chance) == (0, 0, 0, 0)


@pytest.mark.parametrize("first, second", [(0.1, 0.1), (0.3, 0.9), (0.7, 0.7), (1.0, 0.5)])
def test_chance_at_one_site_is_the_formula(first, second):
    masks = [
        MaskSet({"w": torch.arange(1000).reshape(10, 100) < 1000 * keep})
        for keep in (first, second)
    ]
    found = overlap(*masks)
    product = first * second
    assert found.iou_by_chance == pytest.approx(product / (first + second - product))
    assert found.cosine_by_chance == pytest.approx(math.sqrt(product))
    if first == second:
        assert found.iou_by_chance == pytest.approx(first / (2 - first))
        assert found.cosine_by_chance == pytest.approx(first)


@pytest.mark.parametrize(
    "keep_first, keep_second",
    [((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5)), ((0.95, 0.1, 0.4, 0.6), (0.9, 0.2, 0.7, 0.1))],
)
def test_random_masks_lie_at_their_floor_even_with_uneven_sites(keep_first, keep_second):
    first = [exact_masks(dict(zip(SHAPES, keep_first)), seed) for seed in range(40)]
    second = [exact_masks(dict(zip(SHAPES, keep_second)), 100 + seed) for seed in range(40)]
    found = [overlap(a, b) for a, b in zip(first, second)]
    iou, cosine = statistics.mean(o.iou for o in found), statistics.mean(o.cosine for o in found)
    assert iou == pytest.approx(found[0].iou_by_chance, abs=0.004)
    assert cosine == pytest.approx(found[0].cosine_by_chance, abs=0.004)


def test_uneven_sites_overlap_by_more_than_the_density_of_all_suggests():
    """Ignoring the sites would call chance a similarity."""
    uneven = exact_masks(dict(zip(SHAPES, (0.95, 0.05, 0.5, 0.5))), seed=0)
    density = uneven.density
    assert overlap(uneven, uneven).iou_by_chance > density / (2 - density) + 0.1


def test_the_pairwise_table_holds_every_overlap():
    mask_sets = [even_masks(keep, seed) for seed, keep in enumerate((0.2, 0.5, 0.5, 0.9))]
    table = pairwise(mask_sets)
    for row, column in itertools.product(range(4), repeat=2):
        assert table[row][column] == overlap(mask_sets[row], mask_sets[column])
    assert [table[i][i].iou for i in range(4)] == [1.0] * 4


def test_overlaps_of_sites_add_up_to_those_of_groups():
    first, second = even_masks(0.5, seed=0), even_masks(0.7, seed=1)
    sites = overlaps(first, second, str)
    for key in (layer_of, role_of):
        assert grouped(sites, key) == overlaps(first, second, key)
    assert list(grouped(sites, lambda site: None).values()) == [overlap(first, second)]


def test_what_is_above_chance_is_0_for_random_masks_and_1_for_equal_ones():
    masks = even_masks(0.5, seed=0)
    assert overlap(masks, masks).cosine_above_chance == 1.0
    found = [
        overlap(even_masks(0.7, 2 * seed), even_masks(0.7, 2 * seed + 1)).cosine_above_chance
        for seed in range(200)
    ]
    assert statistics.mean(found) == pytest.approx(0.0, abs=0.005)
    full = even_masks(1.0, seed=0)
    assert overlap(full, full).cosine_above_chance == 0.0


def test_masks_of_different_models_are_not_compared():
    masks = even_masks(0.5, seed=0)
    name = "encoder.layers.0.fc2.weight"
    fewer = MaskSet({n: m for n, m in masks.items() if n != name})
    reshaped = MaskSet({**masks, name: torch.ones(9, dtype=torch.bool)})
    for other in (fewer, reshaped):
        with pytest.raises(UserError, match=name):
            overlap(masks, other)
        with pytest.raises(UserError, match=name):
            pairwise([other, other, masks])


def test_what_differs_between_masks_is_told():
    masks = even_masks(0.5, seed=0)
    biases = {n.replace("weight", "bias"): torch.ones(3, dtype=torch.bool) for n in SHAPES}
    biased = MaskSet({**masks, **biases})
    shallow = MaskSet({n: m for n, m in masks.items() if ".1." not in n})
    for first, second, told in (
        (masks, biased, "one has masks of biases, the other has none; .*prune_biases=false"),
        (biased, masks, "one has masks of biases, the other has none; .*--no-biases"),
        (masks, shallow, r"one has 2 layer\(s\), the other 1"),
        (shallow, biased, r"one has 1 layer\(s\), the other 2"),
    ):
        with pytest.raises(UserError, match=told):
            overlap(first, second)


def test_rows_of_an_output_layer_must_stand_for_the_same():
    """One of another dictionary, or of the same symbols in another order, has other rows."""
    head = {"proj.weight": torch.eye(3, 2) > 0}
    first, same, other, unknown = (
        MaskSet(head, {"symbols": symbols} if symbols else {})
        for symbols in ("A B C", "A B C", "B A C", None)
    )
    assert overlap(first, same).iou == overlap(first, unknown).iou == 1.0
    with pytest.raises(UserError, match="the same in another order"):
        overlap(first, other)
    body = {"encoder.layers.0.fc1.weight": torch.eye(3, 2) > 0}
    assert overlap(MaskSet(body, first.provenance), MaskSet(body, other.provenance)).iou == 1.0
