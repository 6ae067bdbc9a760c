"""Scores that several weights share: one for each unit that lives in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from speechprune.errors import UserError
from speechprune.masking.initialisation import rank_by_mask
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.schedule import Schedule
from speechprune.masking.sites import Site
from speechprune.masking.unit_view import UnitView


class SharedScores:
    """The scores of one group of units, which are one parameter of every site of the group.

    Selection depends on scores and density alone, so all sites of a group keep the same units.

    Args:
        group: what the units are called.
        sites: that the units live in, with their masks on.
        schedule: of densities.

    Raises:
        UserError: the sites are to have different densities.
    """

    def __init__(self, group: str, sites: Sequence[Site], schedule: Schedule) -> None:
        densities = sorted({schedule.density(site, 0) for site in sites})
        if len(densities) > 1:
            raise UserError(f"{group} share scores: one density, not {densities}")
        self.group = group
        self.masked = [masked_weight(site) for site in sites]
        self.sites = sites
        for masked in self.masked:
            masked.scores = self.masked[0].scores

    @torch.no_grad()
    def start(self) -> None:
        """Start scores that nobody gave yet, from all that shares each; they agree with the masks,
        if there are any."""
        first = self.masked[0]
        if not all(masked.awaits_scores for masked in self.masked):
            return
        weights = [masked.ranked(original_weight(s)) for masked, s in zip(self.masked, self.sites)]
        scores = first.starting_scores(torch.cat(weights, dim=1))
        assert scores is not None and first.scores is not None
        if not first.unselected:
            scores = rank_by_mask(scores, first.ranked_mask.cpu())
        first.scores.copy_(scores)
        for masked in self.masked:
            masked.awaits_scores = False

    def check(self) -> None:
        """Raise UserError if the sites keep different units."""
        masks = [masked.ranked_mask for masked in self.masked]
        for site, mask in zip(self.sites, masks):
            if not torch.equal(mask, masks[0]):
                raise UserError(
                    f"the checkpoint is damaged: the masks of {self.sites[0].name} and "
                    f"{site.name} keep different units, but {self.group} share scores"
                )


def share_scores(
    sites: Sequence[Site], views: Mapping[str, UnitView], schedule: Schedule
) -> list[SharedScores]:
    """The shared scores of sites that have their masks on, one for each group of ``views``."""
    groups: dict[str, list[Site]] = {}
    for site in sites:
        if site.name in views:
            groups.setdefault(views[site.name].group, []).append(site)
    return [SharedScores(group, members, schedule) for group, members in groups.items()]
