"""How much masks of several models overlap, at one sparsity after another.

Source: Lai et al., "PARP", NeurIPS 2021 (arXiv 2106.05933), observation 1: the magnitude masks of a
pretrained model that was finetuned on different languages are nearly the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Union

from tqdm import tqdm

from speechprune.curves import Curve, Panel, line_panels
from speechprune.errors import UserError
from speechprune.masking.baselines import MAKERS
from speechprune.masking.densities import check_sparsity
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.overlap import Overlap
from speechprune.reports.masks import Comparison, short_names
from speechprune.tables import table

#: Densities that differ by no more count as equal.
DENSITY_TOLERANCE = 0.005
#: More pairs than that cannot be distinguished in a figure.
_MOST_NAMED_PAIRS = 6


@dataclass(frozen=True)
class Point:
    """All pairs of the masks of one sparsity.

    Attributes:
        sparsity: share removed; the mean of the masks.
        pairs: two names, and the overlap of their masks.
    """

    sparsity: float
    pairs: tuple[tuple[str, str, Overlap], ...]

    @classmethod
    def of(cls, names: Sequence[str], mask_sets: Sequence[MaskSet]) -> Point:
        """Compare two or more; raises UserError if the masks are not of one model."""
        sparsity = 1 - mean(masks.density for masks in mask_sets)
        try:
            return cls(sparsity, tuple(Comparison.of(names, mask_sets).pairs()))
        except UserError as error:
            raise UserError(f"{', '.join(names)} cannot be compared: {error}") from error

    @property
    def iou(self) -> float:
        """Mean over pairs."""
        return mean(found.iou for _, _, found in self.pairs)

    @property
    def iou_by_chance(self) -> float:
        """Mean over pairs of what random masks give that keep as much of each tensor."""
        return mean(found.iou_by_chance for _, _, found in self.pairs)

    @property
    def iou_of_even_masks(self) -> float:
        """What random masks give that keep as much of all tensors: d / (2 - d) for density d."""
        density = 1 - self.sparsity
        return density / (2 - density)


@dataclass(frozen=True)
class Sweep:
    """Overlaps against sparsity.

    Attributes:
        points: by rising sparsity.
        left_out: names of masks without another of equal density.
    """

    points: tuple[Point, ...]
    left_out: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """IOU of each pair and their mean, beside those of random masks, at each sparsity."""
        return {
            "points": [
                {
                    "sparsity": point.sparsity,
                    "iou": point.iou,
                    "iou_by_chance": point.iou_by_chance,
                    "iou_of_even_masks": point.iou_of_even_masks,
                    "pairs": [
                        {
                            "first": first,
                            "second": second,
                            "iou": found.iou,
                            "iou_by_chance": found.iou_by_chance,
                        }
                        for first, second, found in point.pairs
                    ],
                }
                for point in self.points
            ],
            "left_out": list(self.left_out),
        }

    def describe_in_words(self) -> str:
        """The same as `describe`, as a table."""
        rows = [["", "sparsity %", "IOU", "by chance", "d/(2-d)"]]
        for point in self.points:
            lines = [(f"{a}, {b}", found.iou, found.iou_by_chance) for a, b, found in point.pairs]
            if len(lines) > 1:
                lines.append((f"mean of {len(lines)} pairs", point.iou, point.iou_by_chance))
            for name, iou, by_chance in lines:
                values = (iou, by_chance, point.iou_of_even_masks)
                cells = [f"{value:.4f}" for value in values]
                rows.append([name, f"{100 * point.sparsity:.1f}", *cells])
        text = table(rows)
        if self.left_out:
            text += f"\n\nwithout another of equal density: {', '.join(self.left_out)}"
        return text

    def draw(self, path: Union[str, Path]) -> None:
        """Save IOU against sparsity: pairs, their mean, and chance dashed.

        Raises UserError as `figures.save_figure` does.
        """
        places: dict[str, list[tuple[float, float]]] = {}
        for point in self.points:
            for first, second, found in point.pairs:
                place = (100 * point.sparsity, found.iou)
                places.setdefault(f"{first}, {second}", []).append(place)
        faint = len(places) > _MOST_NAMED_PAIRS
        curves = {
            name: Curve([x for x, _ in found], [y for _, y in found], faint=faint)
            for name, found in places.items()
        }
        sparsities = [100 * point.sparsity for point in self.points]
        if len(places) > 1:
            name = f"mean of {len(places)} pairs"
            curves[name] = Curve(sparsities, [point.iou for point in self.points])
        chance = [point.iou_by_chance for point in self.points]
        curves["by chance"] = Curve(sparsities, chance, dashed=True)
        title = f"IOU of masks of {self._whose()}"
        line_panels([Panel("sparsity (%)", "IOU", curves)], path, title)

    def _whose(self) -> str:
        """What a figure is of: the names of masks, or how many there are of too many to name."""
        pairs = [pair for point in self.points for pair in point.pairs]
        names = list(dict.fromkeys(name for *two, _ in pairs for name in two))
        most = len({tuple(two) for *two, _ in pairs}) > _MOST_NAMED_PAIRS
        return f"{len(names)} models" if most else ", ".join(names)


def sweep(
    checkpoints: Sequence[Path],
    sparsities: Iterable[float],
    *,
    by: str = "global-magnitude",
    biases: bool = True,
    names: Sequence[str] | None = None,
) -> Sweep:
    """Make masks of checkpoints at each sparsity, and compare them.

    Masks of randomly initialised models are made with another seed for each checkpoint: they show
    what chance is.

    Args:
        checkpoints: two or more of one architecture, pretrained or finetuned.
        sparsities: shares removed, in [0, 1).
        by: a name in `MAKERS`.
        biases: mask biases too.
        names: what to call the checkpoints; what tells their paths apart by default.

    Raises:
        UserError: fewer than two checkpoints, one that cannot be read or is of another model, an
            unknown name, or a sparsity outside [0, 1).
    """
    from speechprune.rewriting.baseline_masks import Ranking

    _check_count(checkpoints)
    wanted = sorted(set(sparsities))
    for sparsity in wanted:
        check_sparsity("sparsity", sparsity)
    for path in checkpoints:
        _refuse_other_files(path)  # before the first mask is made
    mask_sets = []
    for index, path in enumerate(tqdm(checkpoints, unit="model", desc="masks", disable=None)):
        seed = 0 if by in MAKERS and MAKERS[by].own_weights else index
        ranking = Ranking(path, by, biases=biases, seed=seed)
        mask_sets.append([ranking.masks(sparsity) for sparsity in wanted])
    names = names or short_names(checkpoints)
    return Sweep(tuple(Point.of(names, equally_sparse) for equally_sparse in zip(*mask_sets)))


def group(names: Sequence[str], mask_sets: Sequence[MaskSet]) -> Sweep:
    """Compare masks as they are, each with those of equal density (DENSITY_TOLERANCE).

    Raises:
        UserError: fewer than two masks, none of equal density, or masks of several models.
    """
    _check_count(mask_sets)
    order = sorted(range(len(names)), key=lambda index: -mask_sets[index].density)
    groups: list[list[int]] = []
    for index in order:
        densest = mask_sets[groups[-1][0]].density if groups else float("inf")
        if densest - mask_sets[index].density <= DENSITY_TOLERANCE:
            groups[-1].append(index)
        else:
            groups.append([index])
    # Within a group, as they were given.
    compared = [sorted(members) for members in groups if len(members) > 1]
    if not compared:
        densities = [f"{name} {masks.density:.3f}" for name, masks in zip(names, mask_sets)]
        raise UserError(f"no two of these masks have equal densities: {', '.join(densities)}")
    points = [Point.of([names[i] for i in m], [mask_sets[i] for i in m]) for m in compared]
    return Sweep(tuple(points), tuple(names[m[0]] for m in groups if len(m) == 1))


def _refuse_other_files(path: Path) -> None:
    from speechprune.checkpoint.file import read

    try:
        MaskSet.load(path)
    except UserError:
        read(path, mmap=True)
    else:
        raise UserError(f"{path} is a mask file; to compare masks as they are, give --own")


def _check_count(masks: Sequence[Any]) -> None:
    if len(masks) < 2:
        raise UserError("there is nothing to compare: give two or more")
