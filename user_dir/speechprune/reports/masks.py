"""What there is to say about masks: as plain values, as text, and as a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np

from speechprune.figures import heat_map
from speechprune.masking.bits import Tally
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.overlap import Overlap, overlaps, pairwise
from speechprune.state_names import layer_of, role_of
from speechprune.tables import table

#: What a heat map can show, and how it is called.
MEASURES = {"iou": "IOU", "cosine": "cosine"}


def describe(masks: MaskSet) -> dict[str, Any]:
    """Sizes, provenance, and density (share kept) of all, of each layer, role and site."""
    return {
        "sites": len(masks),
        "weights": masks.tally.total,
        "kept": masks.tally.kept,
        "density": masks.density,
        "bytes": masks.nbytes,
        "layers": {str(n): t.density for n, t in masks.tallies(layer_of).items() if n is not None},
        "roles": {role: tally.density for role, tally in masks.tallies(role_of).items()},
        "densities": {site: tally.density for site, tally in masks.tallies(str).items()},
        "provenance": masks.provenance,
    }


def describe_in_words(masks: MaskSet) -> str:
    """The same as `describe`, with a table of densities."""
    tally = masks.tally
    lines = [
        f"{len(masks)} masks of {tally.total:,} weights, {tally.kept:,} kept (density "
        f"{tally.density:.4f}), {masks.nbytes:,} bytes at one bit per weight",
        "",
        table(_density_table(masks)),
    ]
    if masks.provenance:
        facts = [[key, value] for key, value in masks.provenance.items()]
        lines += ["", table(facts, left=2)]
    return "\n".join(lines)


def _density_table(masks: MaskSet) -> list[list[str]]:
    """Rows are the layers and what is outside them, columns the roles within a layer."""
    cells = masks.tallies(lambda site: (layer_of(site), role_of(site)))
    layers = masks.tallies(layer_of)
    outside = {role: tally for (layer, role), tally in cells.items() if layer is None}
    roles = {r: tally for r, tally in masks.tallies(role_of).items() if r not in outside}
    rows = [["density", *roles, "all"]]
    for layer, total in layers.items():
        if layer is not None:
            row = [_density(cells[layer, r]) if (layer, r) in cells else "" for r in roles]
            rows.append([f"layer {layer}", *row, _density(total)])
    for role, tally in outside.items():
        rows.append([role, *[""] * len(roles), _density(tally)])
    rows.append(["all", *map(_density, roles.values()), _density(masks.tally)])
    return rows


@dataclass(frozen=True)
class Comparison:
    """Masks of one model, compared pair by pair.

    Attributes:
        names: what to call each mask set.
        mask_sets: two or more.
        table: the overlap of row and column, as `pairwise` gives it.
    """

    names: tuple[str, ...]
    mask_sets: tuple[MaskSet, ...]
    table: list[list[Overlap]]

    @classmethod
    def of(cls, names: Sequence[str], mask_sets: Sequence[MaskSet]) -> Comparison:
        """Compare; raises UserError if the masks are not of one model."""
        return cls(tuple(names), tuple(mask_sets), pairwise(mask_sets))

    def pairs(self) -> Iterator[tuple[str, str, Overlap]]:
        """Names and overlap of every two mask sets."""
        for row, first in enumerate(self.names):
            for column in range(row + 1, len(self.names)):
                yield first, self.names[column], self.table[row][column]

    def describe(self) -> dict[str, Any]:
        """IOU and cosine of each pair beside those of random masks; of two, also by part."""
        report: dict[str, Any] = {
            "masks": [
                {"name": name, "density": masks.density}
                for name, masks in zip(self.names, self.mask_sets)
            ],
            "pairs": [
                {"first": first, "second": second, **_values(found)}
                for first, second, found in self.pairs()
            ],
        }
        if len(self.mask_sets) == 2:
            for group, key in (("layers", layer_of), ("roles", role_of), ("sites", str)):
                parts = overlaps(*self.mask_sets, key)
                report[group] = {str(k): _values(v) for k, v in parts.items() if k is not None}
        return report

    def describe_in_words(self) -> str:
        """The same as `describe`, as tables; without single sites."""
        densities = [[n, f"{m.density:.4f}"] for n, m in zip(self.names, self.mask_sets)]
        rows = [["", "IOU", "by chance", "cosine", "by chance"]]
        if len(self.mask_sets) == 2:
            for key, title in ((layer_of, "layer {}"), (role_of, "{}")):
                for part, found in overlaps(*self.mask_sets, key).items():
                    if part is not None:
                        rows.append([title.format(part), *_cells(found)])
            rows.append(["all", *_cells(self.table[0][1])])
        else:
            for first, second, found in self.pairs():
                rows.append([f"{first}, {second}", *_cells(found)])
        return "\n".join([table([["", "density"], *densities]), "", table(rows)])

    def draw(self, path: Union[str, Path], measure: str) -> None:
        """Save a heat map of a measure (a key of MEASURES); colours start at chance.

        Raises UserError as `figures.save_figure` does.
        """
        matrix = np.array([[getattr(o, measure) for o in row] for row in self.table])
        floors = [getattr(found, f"{measure}_by_chance") for _, _, found in self.pairs()]
        low, high = f"{min(floors):.2f}", f"{max(floors):.2f}"
        chance = low if low == high else f"{low} to {high}"
        title = f"{MEASURES[measure]} of masks (by chance {chance})"
        lowest = min(*floors, matrix.min())
        heat_map(matrix, self.names, path, title, vmin=lowest if lowest < 1.0 else 0.0, vmax=1.0)


def short_names(paths: Sequence[Union[str, Path]]) -> list[str]:
    """What tells paths apart: without the folders, file names and endings that all share.

    A checkpoint is called by its run where that is enough, any other file without its ending.
    """
    forms = [_forms(Path(path).resolve()) for path in paths]
    if len({longest for *_, longest in forms}) < len(forms):
        return [str(path) for path in paths]
    parts = [form[0] for form in forms]
    while len(set(parts)) < len(parts):
        # Of those that are alike, each is named by its next longer form.
        alike = {index for index, names in enumerate(parts) if parts.count(names) > 1}
        for index in alike:
            forms[index] = forms[index][1:] or forms[index]
        parts = [form[0] for form in forms]
    while min(map(len, parts)) > 1 and len({names[0] for names in parts}) == 1:
        parts = [names[1:] for names in parts]
    while min(map(len, parts)) > 1 and len({names[-1] for names in parts}) == 1:
        parts = [names[:-1] for names in parts]
    return ["/".join(names) for names in parts]


def _forms(path: Path) -> list[tuple[str, ...]]:
    """The parts of a path from its shortest form to its longest, that all but tells it apart."""
    forms = [path.with_suffix("").parts, path.parts]
    if path.parent.name == "checkpoints" and path.name.startswith("checkpoint_"):
        run = path.parent.parent
        forms = [run.parts, (run / path.stem).parts, *forms]
    return forms


def _values(found: Overlap) -> dict[str, float]:
    return {
        "iou": found.iou,
        "iou_by_chance": found.iou_by_chance,
        "cosine": found.cosine,
        "cosine_by_chance": found.cosine_by_chance,
    }


def _cells(found: Overlap) -> list[str]:
    return [f"{value:.4f}" for value in _values(found).values()]


def _density(tally: Tally) -> str:
    return f"{tally.density:.4f}"
