"""What a site has once a mask is on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechprune.masking.injection import masked_tensors, parameters_under, weight_under
from speechprune.masking.masked_weight import MaskedWeight
from speechprune.masking.schedule import Schedule
from speechprune.masking.selection import keep_count
from speechprune.masking.sites import Site


def masked_weight(site: Site) -> MaskedWeight:
    """The mask of a site."""
    return masked_tensors(site.module)[site.tensor]


def original_weight(site: Site) -> Tensor:
    """The unmasked weight of a site: a parameter, or what weight norm makes of two."""
    return weight_under(site.module, site.tensor)


def original_parameters(site: Site) -> list[nn.Parameter]:
    """The parameters that the unmasked weight of a site is made of."""
    return parameters_under(site.module, site.tensor)


def is_trained(site: Site) -> bool:
    """Whether the weight of a site, and not its mask alone, is trained."""
    return any(parameter.requires_grad for parameter in original_parameters(site))


def density_of(sites: Sequence[Site]) -> float:
    """Share kept of all entries of the masked weights (a row's mask counts for its whole row); 1.0
    if there are none."""
    if not sites:
        return 1.0
    masks = [masked_weight(site).mask for site in sites]
    entries = [original_weight(site).numel() for site in sites]
    counts = torch.stack([mask.count_nonzero() for mask in masks]).tolist()
    kept = sum(n / mask.numel() * size for n, mask, size in zip(counts, masks, entries))
    return kept / sum(entries)


def is_moving(site: Site) -> bool:
    """Whether the importances of a site change from one choice of masks to the next."""
    masked = masked_weight(site)
    ranked_moves = is_trained(site) if masked.scores is None else masked.scores.requires_grad
    return masked.policy.redraws or masked.policy.observes or ranked_moves


def fixed_densities(sites: Sequence[Site], schedule: Schedule) -> tuple[float, float]:
    """Shares kept of what no training moves, as the masks are and as the schedule begins."""
    fixed = [site for site in sites if not is_moving(site)]
    if not fixed:
        return 1.0, 1.0
    scheduled = 0.0
    for site in fixed:
        entries, density = masked_weight(site).ranked_mask.numel(), schedule.density(site, 0)
        scheduled += keep_count(entries, density) / entries * original_weight(site).numel()
    total = sum(original_weight(site).numel() for site in fixed)
    return density_of(fixed), scheduled / total
