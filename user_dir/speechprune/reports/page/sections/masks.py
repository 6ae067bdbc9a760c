"""Masks by layer and role, and how much those of one model overlap."""

from __future__ import annotations

from collections.abc import Sequence

from speechprune.masking.bits import Tally
from speechprune.masking.mask_set import MaskSet
from speechprune.reports.masks import Comparison
from speechprune.reports.page.contents import Contents
from speechprune.reports.page.markup import (
    Child,
    Markup,
    element,
    joined,
    name_of,
    paragraph,
    shaded,
    table,
)
from speechprune.state_names import layer_of, role_of

TITLE = "Masks"


def section(contents: Contents) -> Markup:
    """A table of densities for each mask set, then the overlaps of those of one model."""
    masked = {model.name: model.masks for model in contents.models if model.masks is not None}
    bare = [model.name for model in contents.models if model.masks is None]
    parts = [_densities(name, masks) for name, masks in masked.items()]
    parts += _overlaps(masked)
    if bare:
        parts.append(paragraph("Without masks: ", _listed(bare), "."))
    return joined(parts) if parts else paragraph("Neither a checkpoint nor a mask file was given.")


def _densities(name: str, masks: MaskSet) -> Markup:
    """Rows are layers and what is outside them, columns the roles within a layer."""
    cells = masks.tallies(lambda site: (layer_of(site), role_of(site)))
    layers, tally = masks.tallies(layer_of), masks.tally
    roles = list(dict.fromkeys(role for layer, role in cells if layer is not None))
    rows: list[list[Child]] = []
    for layer, total in layers.items():
        if layer is not None:
            within = [_density(cells.get((layer, role))) for role in roles]
            rows.append([f"layer {layer}", *within, _density(total)])
    for (layer, role), found in cells.items():
        if layer is None:
            rows.append([name_of(role), *[_density(None)] * len(roles), _density(found)])
    by_role = masks.tallies(lambda site: role_of(site) if layer_of(site) is not None else None)
    rows.append(["all", *(_density(by_role[role]) for role in roles), _density(tally)])
    facts = (
        f"{tally.kept:,} of {tally.total:,} weights kept (density {tally.density:.4f}), "
        f"{len(masks)} masks, {masks.nbytes:,} bytes at one bit per weight"
    )
    head = ["", *(name_of(role) for role in roles), "all"]
    return joined(
        [
            element("h3", name_of(name)),
            paragraph(facts),
            table(f"Share kept by layer and role, {name}", head, rows, class_="heat"),
        ]
    )


def _density(tally: Tally | None) -> Markup:
    return shaded(None, "") if tally is None else shaded(tally.density, f"{tally.density:.3f}")


def _overlaps(masked: dict[str, MaskSet]) -> list[Markup]:
    """A table for each model that several masks are of."""
    groups: list[list[str]] = []
    for name, masks in masked.items():
        for group in groups:
            if masked[group[0]].shapes == masks.shapes:
                group.append(name)
                break
        else:
            groups.append([name])
    return [_overlap(group, [masked[name] for name in group]) for group in groups if group[1:]]


def _overlap(names: Sequence[str], masks: Sequence[MaskSet]) -> Markup:
    compared = Comparison.of(names, masks)
    rows = [
        [name_of(name), *(shaded(found.iou, f"{found.iou:.3f}") for found in row)]
        for name, row in zip(names, compared.table)
    ]
    pairs = [
        [
            joined([name_of(first), ", ", name_of(second)]),
            f"{found.iou:.4f}",
            f"{found.iou_by_chance:.4f}",
            f"{found.cosine:.4f}",
            f"{found.cosine_by_chance:.4f}",
        ]
        for first, second, found in compared.pairs()
    ]
    head = ["masks", "IOU", "by chance", "cosine", "by chance"]
    return joined(
        [
            element("h3", "Overlap of masks"),
            table(
                "IOU: kept in both / kept in either",
                ["", *map(name_of, names)],
                rows,
                class_="heat",
            ),
            table("Each pair beside random masks of the same densities", head, pairs),
        ]
    )


def _listed(names: Sequence[str]) -> Markup:
    return joined([joined([", " if number else "", name_of(n)]) for number, n in enumerate(names)])
