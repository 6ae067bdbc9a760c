"""Where the heads and channels of a layer lie in the weights that masks go on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from speechprune.masking.sites import Site
from speechprune.masking.unit_view import UnitView

#: 0 if each unit of a layer has rows of the weight, 1 if columns.
_AXES = {"attn.q": 0, "attn.k": 0, "attn.v": 0, "attn.out": 1, "ffn.in": 0, "ffn.out": 1}


class UnitCounts(Protocol):
    """How many units a layer has, as `speechprune.slimming.units.LayerUnits` says."""

    @property
    def heads(self) -> int:
        """H."""

    @property
    def head_size(self) -> int:
        """D."""

    @property
    def channels(self) -> int:
        """F."""


def unit_views(sites: Iterable[Site], units: Sequence[UnitCounts]) -> dict[str, UnitView]:
    """How heads and feed-forward channels lie in the weights of sites, by the site's name.

    All weights of one attention have its heads in common, and the two of a feed-forward block its
    channels. Sites outside the layers have no units.

    Args:
        units: of every layer, in order.
    """
    found = {}
    for site in sites:
        if site.layer is None or site.role not in _AXES:
            continue
        layer = units[site.layer]
        if site.role.startswith("attn."):
            kind, count, size = "heads", layer.heads, layer.head_size
        else:
            kind, count, size = "channels", layer.channels, 1
        group = f"the {kind} of layer {site.layer}"
        found[site.name] = UnitView(group, _AXES[site.role], count, size)
    return found
