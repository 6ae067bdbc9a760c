"""MaskController: puts masks on sites, chooses them once per update, and folds them away."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from speechprune.errors import UserError
from speechprune.masking.injection import inject, remove
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.masked_site import (
    density_of,
    is_moving,
    is_trained,
    masked_weight,
    original_parameters,
    original_weight,
)
from speechprune.masking.masked_weight import MaskedWeight
from speechprune.masking.observation import add_observations
from speechprune.masking.policies.base import MaskPolicy
from speechprune.masking.ranking import SiteRanking
from speechprune.masking.schedule import Schedule, Timetable
from speechprune.masking.shared_scores import share_scores
from speechprune.masking.sites import Site
from speechprune.masking.unit_view import UnitView
from speechprune.masking.weight_norm import current_weight


@dataclass(frozen=True)
class _Settled:
    """Masks chosen early.

    Attributes:
        update: whose masks they are.
        due: sites that training takes new masks for at that update.
        before: the masks of training that they took the place of.
    """

    update: int
    due: list[Site]
    before: list[tuple[Site, Tensor]]


class MaskController(nn.Module):
    """Masks on the sites of one model.

    Assign it to the model as a submodule: ``model.train()`` and ``model.eval()`` then reach it, and
    fairseq's ``model.set_num_updates()`` too. Elsewhere call :meth:`set_num_updates` before each
    training step.

    The network that is validated and saved is the one that the next update would use: when a
    training step may have changed the scores, entering evaluation and :meth:`settle` choose the
    masks of the update to come. Selection is a pure function of the importances, so choosing early
    changes nothing. Under a policy that masks evaluation only, it is the present weights pruned
    afresh, at the density of the last selection; training goes on as if nobody had looked.

    Args:
        sites: the tensors to mask; their weights are loaded already.
        policy: the rule that ranks connections.
        schedule: density of each site at each update.
        scope: rank within each ``site`` or over all sites (``global``).
        every: choose new masks at update 0, and at every so many updates from ``begin`` on; None
            for masks that are given and stay.
        begin: where regular selection begins.
        seed: of the starting scores.
        initialise: start the scores from the policy now; False for a model that is built only to
            load a checkpoint.
        trains_weights: whether the masked weights are trained; as the policy says by default.
        own_policies: the same rule with other options, by the role of sites that it is for.
        views: of the units that are ranked in place of connections, by site name. Sites of one
            group keep the same units. The policy has one score per row.

    Raises:
        UserError: no sites, an unknown scope, ``every`` below 1, frozen weights under a policy
            whose masks follow them alone, a tensor that does not take the policy's pattern, or
            units that are ranked over all sites or share scores at different densities.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        policy: MaskPolicy,
        schedule: Schedule,
        *,
        scope: str = "site",
        every: int | None = 1,
        begin: int = 0,
        seed: int = 0,
        initialise: bool = True,
        trains_weights: bool | None = None,
        own_policies: Mapping[str, MaskPolicy] | None = None,
        views: Mapping[str, UnitView] | None = None,
    ) -> None:
        super().__init__()
        self.sites = list(sites)
        if not self.sites:
            raise UserError("nothing to mask: the settings leave no tensor")
        trains = policy.trains_weights if trains_weights is None else trains_weights
        if policy.needs_trained_weights and not trains:
            raise UserError(f"the weights are frozen, but the masks of {policy} follow them alone")
        if views and scope != "site":
            raise UserError(f"units are ranked within their layer, not in the scope {scope!r}")
        self.policy = policy
        self._own_policies = own_policies or {}
        self._views = views or {}
        self.seed = seed
        self.schedule = schedule
        self.timetable = Timetable(every, begin)
        self._settled: _Settled | None = None
        self._starts_from_given = False
        self._update: int | None = None
        self._stepping = False
        self._flipped: Tensor | int = 0
        self._density: float | None = None
        self._ranking = SiteRanking(scope, policy.by_magnitude, policy.pattern)
        for site in self.sites:
            weight = current_weight(site.module, site.tensor)
            self._ranking.check(site.name, _as_matrix(site, weight))
        for site in self.sites:
            self._inject(site, initialise, trains)
        self._shared = share_scores(self.sites, self._views, schedule)
        for shared in self._shared if initialise else ():
            shared.start()

    def _inject(self, site: Site, initialise: bool, trains: bool) -> None:
        weight = current_weight(site.module, site.tensor)
        density = self.schedule.density(site, 0)
        policy = self._own_policies.get(site.role, self.policy)
        view = self._views.get(site.name)
        masked = MaskedWeight(
            policy, weight, site.name, density, self.seed, initialise, trains, view, site.matrix
        )
        inject(site.module, site.tensor, masked)
        for parameter in original_parameters(site):
            parameter.requires_grad_(trains)

    def set_num_updates(self, update: int) -> None:
        """Choose the masks of ``update``; a second call with the same number does nothing.

        Raises:
            FloatingPointError: an importance is not a number.
        """
        if update != self._update or self._settled is not None:
            self._begin(update)
        self._stepping = True

    def settle(self) -> None:
        """After a training step: choose the masks of the next update now, if a step began.

        Called on entering evaluation and before saving, so that the masks match the scores.
        """
        if not self._stepping or self._update is None:
            unselected = [site for site in self.sites if masked_weight(site).unselected]
            self._choose(unselected, self._update or 0)
        else:
            self._settled = self._look_ahead(self._update + 1)
        self._stepping = False

    @torch.no_grad()
    def choose_as_many(self) -> None:
        """Choose the masks of the present weights and scores, each of as many entries as it keeps.

        Raises:
            FloatingPointError: an importance is not a number.
        """
        importances = self._importances(self.sites, self._update or 0)
        masks = self._ranking.select_as_many(
            importances, [masked_weight(site).ranked_mask for site in self.sites]
        )
        self._take(self.sites, masks)

    def start_from(self, masks: Mapping[str, Tensor]) -> None:
        """Take given masks in place of those of update 0, for every site; scores agree with them.

        Args:
            masks: bool, in the shape of the weight, by site name.
        """
        self._starts_from_given = True
        for site in self.sites:
            mask = masks[site.name].to(original_weight(site).device)
            masked_weight(site).choose(mask)
            masked_weight(site).let_scores_agree()
        self._density = None

    def loaded(self) -> None:
        """After a checkpoint was loaded: keep its masks, choose only those that it lacked.

        Raises:
            UserError: its masks of sites that share scores differ.
        """
        self._stepping = False
        self._settled = None
        self._density = None
        for shared in self._shared:
            shared.start()
        self.settle()
        for shared in self._shared:
            shared.check()
        self._update = None

    def train(self, mode: bool = True) -> MaskController:
        if self.training and not mode:
            self.settle()
        # A step begins; what is pending is of one that was skipped, as half precision overflowed.
        for site in self.sites if self.policy.observes else ():
            masked_weight(site).pending = None
        return super().train(mode)

    @torch.no_grad()
    def observe(self) -> None:
        """After the backward passes of an update, before the step: keep what the policy gathered.

        Only a policy that observes gradients needs it. The plugin calls it in fairseq's loop, on
        every process.

        Raises:
            FloatingPointError: a gradient is not a finite number.
        """
        if not self.policy.observes:
            return
        masked = [masked_weight(site) for site in self.sites]
        add_observations(masked)

    def _begin(self, update: int) -> None:
        """Go on to ``update``, with the masks that were settled for it or with new ones."""
        settled, self._settled = self._settled, None
        if settled is not None and settled.update == update:
            self._take_back([pair for pair in settled.before if pair[0] not in settled.due])
            due = settled.due
        else:
            self._take_back([] if settled is None else settled.before)
            if update == self._update:
                return  # the last step was skipped: half precision overflowed
            due = self._due(update)
            self._choose_anew(due, update)
        if self.policy.masks_evaluation_only:
            self._forget_trained_products()
        self._edit(due if update else self.sites)
        self._forget_observed(due)
        self._update = update

    def _look_ahead(self, update: int) -> _Settled:
        """Choose the masks of an update to come, which may not be the next one after all."""
        due = self._due(update)
        # Where masks take no part in training, those of the present weights are shown.
        chosen = self.sites if self.policy.masks_evaluation_only else due
        before = [(site, masked_weight(site).mask) for site in chosen]
        self._choose_anew(chosen, update)
        return _Settled(update, due, before)

    def _take_back(self, masks: list[tuple[Site, Tensor]]) -> None:
        """Go back to masks that there were."""
        for site, mask in masks:
            masked_weight(site).choose(mask, original_weight(site))
        if masks:
            self._flipped = 0
            self._density = None

    def _choose_anew(self, sites: list[Site], update: int) -> None:
        """Choose masks of weights that have been trained since the last time."""
        self._flipped = 0
        self._forget_trained_products()
        self._choose(sites, update)

    @torch.no_grad()
    def _choose(self, due: list[Site], update: int) -> None:
        if not due:
            return
        importances = self._importances(due, update)
        densities = [self._density_at(site, update) for site in due]
        others = [masked_weight(s).mask for s in self.sites if s.name not in importances]
        self._take(due, self._ranking.select(importances, densities, others))

    def _importances(self, sites: list[Site], update: int) -> dict[str, Tensor]:
        return {site.name: self._importance(site, update) for site in sites}

    def _importance(self, site: Site, update: int) -> Tensor:
        masked = masked_weight(site)
        scores: Tensor | None = masked.scores
        if masked.observed is not None:
            scores = masked.ranked(masked.observed)
        key = (self.seed, update, zlib.crc32(site.name.encode()))
        (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(seed) >> 1)
        return self.policy.importance(masked.ranked(original_weight(site)), scores, generator)

    def _take(self, sites: list[Site], masks: list[Tensor]) -> None:
        """Put chosen masks, with one entry for each importance, on sites."""
        for site, chosen in zip(sites, masks):
            weight, masked = original_weight(site), masked_weight(site)
            mask = masked.spread(chosen)
            shared = weight.numel() // mask.numel()  # connections per entry of the mask
            self._flipped += masked.choose(mask, weight) * shared
        self._density = None

    @torch.no_grad()
    def _edit(self, sites: list[Site]) -> None:
        """Let the policy edit weights whose masks training goes on with."""
        for site in sites if self.policy.edits_weights else ():
            weight, mask = original_weight(site), masked_weight(site).mask
            # The plugin names the copy that an optimizer for half precision keeps and steps.
            for copy in (weight, getattr(weight, "master_copy", None)):
                if copy is None:
                    continue
                edited = self.policy.edit_weight(copy.detach(), mask)
                if edited is not None:
                    copy.data.copy_(edited)
                    masked_weight(site).forget_product()

    def _due(self, update: int) -> list[Site]:
        """The sites whose masks may differ from the ones that they have."""
        return [site for site in self.sites if self._is_due(site, update)]

    def _is_due(self, site: Site, update: int) -> bool:
        if masked_weight(site).unselected:
            return True
        if not self.timetable.selects(update) or (update == 0 and self._starts_from_given):
            return False
        before, now = (self._density_at(site, u) for u in (max(update - 1, 0), update))
        return is_moving(site) or before != now

    def _density_at(self, site: Site, update: int) -> float:
        """Densities change when masks are chosen."""
        return self.schedule.density(site, self.timetable.last_selection(update))

    def _forget_trained_products(self) -> None:
        for site in self.sites:
            if is_trained(site):
                masked_weight(site).forget_product()

    def _forget_observed(self, sites: list[Site]) -> None:
        for site in sites if self.policy.observes else ():
            masked_weight(site).forget_observed()

    def stats(self) -> dict[str, float | Tensor]:
        """``density``, kept over all masked entries, and ``flipped``, the connections that the
        last selection turned on or off (a tensor on the device, to save a synchronisation)."""
        if self._density is None:
            self._density = density_of(self.sites)
        return {"density": self._density, "flipped": self._flipped}

    def mask_set(self, provenance: Mapping[str, str] | None = None) -> MaskSet:
        """The masks as a value, each in the full shape of its weight."""
        masks = {
            site.name: masked_weight(site).mask.expand_as(original_weight(site)).cpu()
            for site in self.sites
        }
        return MaskSet(masks, provenance or {})

    def penalty(self) -> Tensor | None:
        """Sum of the policy's penalties over all sites, or None if it has none."""
        penalties = [
            penalty
            for site in self.sites
            if (scores := masked_weight(site).scores) is not None
            and (penalty := self.policy.penalty(scores)) is not None
        ]
        return torch.stack(penalties).sum() if penalties else None

    def fold(self) -> None:
        """Bake the masks in: ordinary parameters with zeros and plain checkpoint keys remain."""
        self.settle()
        for site in self.sites:
            remove(site.module, site.tensor)
        self.sites, self._shared, self._settled = [], [], None


def _as_matrix(site: Site, weight: Tensor) -> Tensor:
    """The weight of a site with its outputs first."""
    return weight if site.matrix is None else site.matrix.matrix(weight)
