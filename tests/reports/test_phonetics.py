"""Masks against phonemes: every number against plain loops over unpacked masks."""

from __future__ import annotations

import json
import random
from itertools import combinations, product
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch

from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.reports.language_figures import NamedPoint, draw_points, draw_tree, place_names
from speechprune.reports.language_masks import LanguageMasks
from speechprune.reports.phonemes import Inventories, Inventory
from speechprune.reports.phonetics import Phonetics
from speechprune.state_names import layer_of, role_of

CODES = ("es", "fr", "it", "ru", "fr", "it", "fr")
NAMES = ("es", "fr1", "it1", "ru", "fr2", "it2", "fr3")
SHAPES = {
    "encoder.layers.0.fc1.weight": (24, 10),
    "encoder.layers.0.fc2.weight": (10, 24),
    "encoder.layers.1.fc1.weight": (24, 10),
    "post_extract_proj.weight": (7, 11),
}


def masks_of(seed: int, keep: float = 0.6) -> MaskSet:
    generator = torch.Generator().manual_seed(seed)
    return MaskSet({n: torch.rand(s, generator=generator) < keep for n, s in SHAPES.items()})


def found(codes: tuple[str, ...] = CODES, names: tuple[str, ...] = NAMES) -> Phonetics:
    known = Inventories.built_in()
    mask_sets = [masks_of(number, 0.5 + number / 50) for number in range(len(codes))]
    return Phonetics.of(names, mask_sets, [known.find(code) for code in codes])


def cosine(one: MaskSet, two: MaskSet, sites: list[str]) -> float:
    a, b = (torch.cat([m[site].flatten().double() for site in sites]) for m in (one, two))
    return torch.cosine_similarity(a, b, 0).item()


def chance(one: MaskSet, two: MaskSet, sites: list[str]) -> float:
    """Expected agreement of random masks over the geometric mean of what is kept."""
    kept = [[int(masks[site].sum()) for site in sites] for masks in (one, two)]
    both = sum(a * b / one[site].numel() for a, b, site in zip(*kept, sites))
    return both / (sum(kept[0]) * sum(kept[1])) ** 0.5


def languages(codes: tuple[str, ...] = CODES) -> dict[str, list[MaskSet]]:
    members: dict[str, list[MaskSet]] = {}
    for number, code in enumerate(codes):
        members.setdefault(code, []).append(masks_of(number, 0.5 + number / 50))
    return members


def test_pairs_are_means_over_all_masks_of_two_languages() -> None:
    report, members = found().describe(), languages()
    known = Inventories.built_in()
    assert len(report["pairs"]) == 6
    for pair in report["pairs"]:
        one, two = pair["first"], pair["second"]
        masks = list(product(members[one], members[two]))
        cosines = [cosine(a, b, list(SHAPES)) for a, b in masks]
        floors = [chance(a, b, list(SHAPES)) for a, b in masks]
        assert pair["cosine"] == pytest.approx(mean(cosines))
        assert pair["cosine_by_chance"] == pytest.approx(mean(floors))
        above = [(c - f) / (1 - f) for c, f in zip(cosines, floors)]
        assert pair["cosine_above_chance"] == pytest.approx(mean(above))
        assert pair["phoneme_cosine"] == known.find(one).cosine(known.find(two))
    values = [pair["phoneme_cosine"] for pair in report["pairs"]]
    assert values == sorted(values, reverse=True)


def test_masks_of_one_language_are_the_ceiling() -> None:
    report, members = found().describe(), languages()
    assert set(report["one_language"]) == {"fr", "it"}
    for name, values in report["one_language"].items():
        pairs = combinations(members[name], 2)
        expected = mean(cosine(a, b, list(SHAPES)) for a, b in pairs)
        assert values["cosine"] == pytest.approx(expected)
    assert [each["masks"] for each in report["languages"]] == [
        ["es"],
        ["fr1", "fr2", "fr3"],
        ["it1", "it2"],
        ["ru"],
    ]


@pytest.mark.parametrize("group, key", [("layers", layer_of), ("roles", role_of)])
def test_parts_are_correlated_by_their_own_masks(group: str, key) -> None:
    correlations = found().describe()["correlations"]
    members, known = languages(), Inventories.built_in()
    parts = {str(key(site)) for site in SHAPES} - {"None"}
    assert set(correlations[group]) == parts
    for part, values in correlations[group].items():
        sites = [site for site in SHAPES if str(key(site)) == part]
        pairs = list(combinations(sorted(members), 2))
        masks = [
            mean(cosine(a, b, sites) for a, b in product(members[one], members[two]))
            for one, two in pairs
        ]
        phonemes = [known.find(one).cosine(known.find(two)) for one, two in pairs]
        assert values["pearson"]["r"] == pytest.approx(np.corrcoef(masks, phonemes)[0, 1])
        assert values["cosine"] == pytest.approx(mean(masks))


def test_alike_masks_of_alike_languages_are_found() -> None:
    """Masks that keep what a language's phonemes say, one weight to each phoneme."""
    known = Inventories.built_in()
    codes = ("en", "es", "fr", "it", "nl", "ru", "sv")
    inventories = [known.find(code) for code in codes]
    every = sorted(set().union(*(each.phonemes for each in inventories)))
    mask_sets = [
        MaskSet({"encoder.layers.0.fc1.weight": torch.tensor([[p in i.phonemes for p in every]])})
        for i in inventories
    ]
    report = Phonetics.of(codes, mask_sets, inventories).describe()
    assert all(p["cosine"] == pytest.approx(p["phoneme_cosine"]) for p in report["pairs"])
    correlations = report["correlations"]
    assert (correlations["orders"], correlations["exact"]) == (5040, True)
    for name in ("pearson", "spearman"):
        assert correlations["all"][name]["r"] == pytest.approx(1.0)
        assert correlations["all"][name]["p"] == pytest.approx(1 / 5040)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_masks_changes_nothing(seed: int) -> None:
    known = Inventories.built_in()
    entries = [
        (name, masks_of(number), known.find(code))
        for number, (name, code) in enumerate(zip(NAMES, CODES))
    ]
    before = Phonetics.of(*zip(*entries), permutations=20)
    random.Random(seed).shuffle(entries)
    after = Phonetics.of(*zip(*entries), permutations=20)
    assert json.dumps(after.describe()) == json.dumps(before.describe())
    assert after.describe_in_words() == before.describe_in_words()


def test_two_inventories_of_a_code_are_two_languages() -> None:
    spoken = [Inventory.of("deu", "ptk", "1"), Inventory.of("deu", "pt", "2")]
    spoken += [Inventory.of("fra", "pb", "3")]
    masks = LanguageMasks.of(("a", "b", "c"), [masks_of(n) for n in range(3)], spoken)
    assert [each.name for each in masks.languages] == ["deu:1", "deu:2", "fra"]


@pytest.mark.parametrize(
    "codes", [("es", "fr", "it"), ("es", "fr"), ("es", "es"), ("es", "fr", "fr")]
)
def test_fewer_than_four_languages_have_no_correlation(codes: tuple[str, ...]) -> None:
    report = found(codes, NAMES[: len(codes)])
    count = len(set(codes))
    assert report.describe()["correlations"] is None
    assert len(report.describe()["pairs"]) == count * (count - 1) // 2
    last = report.describe_in_words().splitlines()[-1]
    assert last == f"A correlation needs at least 4 languages; given: {count}."


def test_words_say_what_was_found() -> None:
    report = found()
    lines = report.describe_in_words().splitlines()
    pair = report.pairs[0]
    values = (pair.phonemes, pair.masks.cosine, pair.masks.by_chance, pair.masks.above_chance)
    assert [pair.name, *(f"{value:.4f}" for value in values)] in [line.split() for line in lines]
    assert "by all 24 orders" in lines[-1] and "chance not" in lines[-2]
    rows = [line.split("  ")[0] for line in lines]
    assert {"all", "layer 0", "layer 1", "fc1", "fc2", "post_extract_proj"} <= set(rows)


def test_equal_masks_have_no_correlation() -> None:
    known = Inventories.built_in()
    spoken = [known.find(code) for code in CODES]
    with pytest.raises(UserError, match="the masks of every two of these languages are equally"):
        Phonetics.of(NAMES, [masks_of(1)] * len(NAMES), spoken)
    same = [Inventory.of(code, "ptk") for code in CODES]
    with pytest.raises(UserError, match="the phonemes of every two"):
        Phonetics.of(NAMES, [masks_of(n) for n in range(len(NAMES))], same)


def test_a_part_that_is_equal_everywhere_is_left_open() -> None:
    known = Inventories.built_in()
    full = torch.ones(SHAPES["encoder.layers.1.fc1.weight"], dtype=torch.bool)
    mask_sets = [
        MaskSet({**masks_of(n), "encoder.layers.1.fc1.weight": full}) for n in range(len(CODES))
    ]
    report = Phonetics.of(NAMES, mask_sets, [known.find(code) for code in CODES])
    part = report.describe()["correlations"]["layers"]["1"]
    assert part["pearson"] is None and part["spearman"] is None
    assert (part["cosine"], part["cosine_by_chance"], part["cosine_above_chance"]) == (1, 1, 0)
    (row,) = [x for x in report.describe_in_words().splitlines() if x.startswith("layer 1")]
    assert row.split()[2:6] == ["-"] * 4


def test_masks_of_other_models_are_named() -> None:
    known = Inventories.built_in()
    other = MaskSet({"encoder.layers.0.fc1.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(UserError, match="^one and two: masks of another model"):
        Phonetics.of(("one", "two"), [masks_of(1), other], [known.find("es"), known.find("fr")])


def test_figures_name_everything_and_are_the_same_each_time(tmp_path: Path) -> None:
    report = found()
    for name, draw in (("pairs", report.draw), ("tree", report.draw_dendrogram)):
        for ending in ("png", "svg"):
            paths = [tmp_path / f"{name}{n}.{ending}" for n in range(2)]
            for path in paths:
                draw(path)
            assert paths[0].read_bytes() == paths[1].read_bytes()
    # matplotlib notes what it writes in comments.
    drawn = (tmp_path / "pairs0.svg").read_text()
    for text in (*(pair.name for pair in report.pairs), "cosine of masks", "r = "):
        assert text in drawn
    assert "by chance: " in drawn and "one language: " in drawn
    drawn = (tmp_path / "tree0.svg").read_text()
    for text in ("<!-- es -->", "<!-- ru -->", "fr (fr1)", "fr (fr3)", "it (it2)"):
        assert text in drawn


def test_figures_need_two_of_their_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one language have no pairs"):
        found(("es", "es"), NAMES[:2]).draw(tmp_path / "pairs.png")
    with pytest.raises(UserError, match="one mask makes no tree"):
        found(("es",), NAMES[:1]).draw_dendrogram(tmp_path / "tree.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("levels", [{"a": [0.1]}, {"a": [0.1, 0.2], "b": [0.99]}, {"a": []}, {}])
def test_levels_far_from_the_points_and_near_to_them_are_drawn(
    tmp_path: Path, levels: dict[str, list[float]]
) -> None:
    points = [NamedPoint("p-q", 0.1, 0.5), NamedPoint("p-r", 0.2, 0.505)]
    path = tmp_path / "points.svg"
    draw_points(points, path, title="t", labels=("x", "y"), levels=levels)
    drawn = path.read_text()
    for name, values in levels.items():
        assert (f"{name}: {values[0]:.3f}" in drawn) if values else (f"{name}: " not in drawn)


def test_one_point_and_equal_masks_can_be_drawn(tmp_path: Path) -> None:
    draw_points(
        [NamedPoint("p", 0.1, 1.0)],
        tmp_path / "a.png",
        title="t",
        labels=("x", "y"),
        levels={"by chance": [0.7]},
    )
    draw_tree(np.zeros((3, 3)), ["a", "b", "c"], tmp_path / "b.png", "t")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_tree_puts_alike_masks_side_by_side(tmp_path: Path) -> None:
    distances = np.full((5, 5), 0.3)
    for one, two in ((0, 3), (1, 4)):
        distances[one, two] = distances[two, one] = 0.1
    np.fill_diagonal(distances, 0.0)
    draw_tree(distances, ["a", "b", "c", "d", "e"], tmp_path / "tree.svg", "t")
    drawn = (tmp_path / "tree.svg").read_text()
    leaves = sorted("abcde", key=lambda name: drawn.index(f"<!-- {name} -->"))
    for one, two in ("ad", "be"):
        assert abs(leaves.index(one) - leaves.index(two)) == 1


def covered(middles: np.ndarray, boxes: np.ndarray, others: np.ndarray, size: np.ndarray) -> int:
    """How many of the boxes cover one of the others, not counting the box itself."""
    count = 0
    for one in range(len(middles)):
        for two in range(len(others)):
            reach = (boxes[one] + size[two]) / 2 - 1e-9
            apart = np.abs(middles[one] - others[two])
            count += int((apart < reach).all() and not (others is middles and one == two))
    return count


def test_names_cover_neither_each_other_nor_points_where_there_is_room() -> None:
    generator = np.random.default_rng(0)
    places = generator.uniform((0.5, 0.5), (6.0, 4.0), size=(45, 2))
    boxes, size = np.tile((0.25, 0.1), (45, 1)), np.array([6.4, 4.6])
    middles = place_names(places, boxes, size)
    assert covered(middles, boxes, middles, boxes) == 0
    assert covered(middles, boxes, places, np.full_like(places, 0.06)) == 0
    assert (middles - boxes / 2 >= 0).all() and (middles + boxes / 2 <= size).all()
    assert (np.abs(middles - places).max(axis=1) < 0.7).all()
    crowd = np.full((5, 2), 2.0)
    assert (
        covered(place_names(crowd, boxes[:5], size), boxes[:5], crowd, np.full_like(crowd, 0.06))
        == 0
    )
