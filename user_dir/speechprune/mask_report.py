"""What there is to say about masks, as values for JSON and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speechprune.masking.mask_set import MaskSet, layer_of, role_of
from speechprune.masking.overlap import Overlap, overlap, overlaps, pairwise

MEASURES = ("iou", "cosine")


def describe(masks: MaskSet) -> dict[str, Any]:
    """Sizes, densities (shares kept) per layer, role and site, and provenance of a mask set."""
    layers = {str(n): t for n, t in masks.tallies(layer_of).items() if n is not None}
    return {
        "sites": len(masks),
        "weights": masks.tally.total,
        "kept": masks.tally.kept,
        "density": masks.density,
        "bytes": masks.nbytes,
        "layers": {layer: tally.density for layer, tally in layers.items()},
        "roles": {role: tally.density for role, tally in masks.tallies(role_of).items()},
        "densities": {site: tally.density for site, tally in masks.tallies(str).items()},
        "provenance": masks.provenance,
    }


def describe_text(name: str, masks: MaskSet) -> str:
    """The same as `describe` as lines: a table of densities, layers by roles."""
    tally = masks.tally
    lines = [
        name,
        f"  {len(masks)} sites, {tally.total:,} weights, {tally.kept:,} kept: "
        f"density {tally.density:.4f}, {masks.nbytes:,} bytes of masks",
        "",
        *_indented(_density_table(masks)),
    ]
    if masks.provenance:
        width = max(map(len, masks.provenance))
        lines.append("")
        lines += [f"  {key:<{width}}  {value}" for key, value in masks.provenance.items()]
    return "\n".join(lines)


def _density_table(masks: MaskSet) -> list[str]:
    """Rows are layers, then the sites outside them; columns are roles."""
    layers = masks.tallies(layer_of)
    cells = masks.tallies(lambda site: (layer_of(site), role_of(site)))
    roles = [role for role in masks.tallies(role_of) if any((n, role) in cells for n in layers if n is not None)]
    rows = [["density", *roles, "all"]]
    for layer in (n for n in layers if n is not None):
        found = [cells.get((layer, role)) for role in roles]
        row = [f"{tally.density:.4f}" if tally else "" for tally in found]
        rows.append([f"layer {layer}", *row, f"{layers[layer].density:.4f}"])
    for (layer, role), tally in cells.items():
        if layer is None:
            rows.append([role, *[""] * len(roles), f"{tally.density:.4f}"])
    totals = masks.tallies(role_of)
    rows.append(["all", *(f"{totals[role].density:.4f}" for role in roles), f"{masks.density:.4f}"])
    return aligned(rows)


def compare(names: Sequence[str], mask_sets: Sequence[MaskSet]) -> dict[str, Any]:
    """Every pair's IOU and cosine beside those of random masks; per layer and role for two.

    Raises UserError if the masks are not of one model.
    """
    report: dict[str, Any] = {
        "masks": [{"name": n, "density": m.density} for n, m in zip(names, mask_sets)],
        "pairs": [
            {"first": names[i], "second": names[j], **_values(found)}
            for i, j, found in _pairs(mask_sets)
        ],
    }
    if len(mask_sets) == 2:
        for group, key in (("layers", layer_of), ("roles", role_of), ("sites", str)):
            parts = overlaps(mask_sets[0], mask_sets[1], key)
            report[group] = {str(k): _values(v) for k, v in parts.items() if k is not None}
    return report


def compare_text(names: Sequence[str], mask_sets: Sequence[MaskSet]) -> str:
    """The same as `compare` as a table."""
    head = ["IOU", "by chance", "cosine", "by chance"]
    if len(mask_sets) == 2:
        first, second = mask_sets
        rows = [[f"{names[0]} and {names[1]}", *head]]
        for title, key in (("layer {}", layer_of), ("{}", role_of)):
            for group, found in overlaps(first, second, key).items():
                if group is not None:
                    rows.append([title.format(group), *_cells(found)])
        rows.append(["all", *_cells(overlap(first, second))])
    else:
        rows = [["masks", *head]]
        for i, j, found in _pairs(mask_sets):
            rows.append([f"{names[i]} and {names[j]}", *_cells(found)])
    densities = [[name, f"{masks.density:.4f}"] for name, masks in zip(names, mask_sets)]
    return "\n".join([*aligned([["density", ""], *densities]), "", *aligned(rows)])
