"""What a site has once a mask is on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechprune.masking.masked_weight import MaskedWeight, masked_tensors
from speechprune.masking.schedule import Schedule
from speechprune.masking.selection import keep_count
from speechprune.masking.sites import Site


def masked_weight(site: Site) -> MaskedWeight:
    """The mask of a site."""
    return masked_tensors(site.module)[site.tensor]


def original_weight(site: Site) -> nn.Parameter:
    """The unmasked parameter of a site."""
    return getattr(site.module.parametrizations, site.tensor).original  # type: ignore[union-attr]


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


def ranked_tensor(site: Site) -> Tensor:
    """What the ranking of a site is made of: scores, or the weight itself."""
    scores = masked_weight(site).scores
    return original_weight(site) if scores is None else scores


def is_moving(site: Site) -> bool:
    """Whether the importances of a site change from one choice of masks to the next."""
    policy = masked_weight(site).policy
    return policy.redraws or policy.observes or ranked_tensor(site).requires_grad


def fixed_densities(sites: Sequence[Site], schedule: Schedule) -> tuple[float, float]:
    """Shares kept of what no training moves, as the masks are and as the schedule begins."""
    fixed = [site for site in sites if not is_moving(site)]
    if not fixed:
        return 1.0, 1.0
    scheduled = 0.0
    for site in fixed:
        entries, density = masked_weight(site).mask.numel(), schedule.density(site, 0)
        scheduled += keep_count(entries, density) / entries * original_weight(site).numel()
    total = sum(original_weight(site).numel() for site in fixed)
    return density_of(fixed), scheduled / total
