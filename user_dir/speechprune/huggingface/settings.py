"""What `speechprune.huggingface.mask` is asked for -> what its controller is made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Size

from speechprune.errors import UserError
from speechprune.masking.densities import check_sparsity
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.policies import POLICIES, MaskPolicy
from speechprune.masking.schedule import ConstantSchedule, Schedule
from speechprune.masking.selection import density_that_keeps
from speechprune.masking.sites import Site

#: Updates from one choice of masks to the next where weights are trained: PARP's n.
_REST = 50
#: The policy under which given masks stay: weights train where they are kept.
_OF_FIXED_MASKS = "gradual_magnitude"
#: A run that begins with given masks begins with what it says it keeps, to this share.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class MaskSettings:
    """How masks are chosen, as the user says; None for what is left to the policy.

    Attributes are the arguments of `speechprune.huggingface.mask`.

    Raises:
        UserError: what is said cannot be.
    """

    policy: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    density: float | None = None
    sparsity: float | None = None
    schedule: Schedule | None = None
    scope: str | None = None
    every: int | None = None
    trains_weights: bool | None = None
    units: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        amounts = [self.density, self.sparsity, self.schedule]
        if sum(each is not None for each in amounts) > 1:
            raise UserError("give one of density (the share kept), sparsity (removed) and schedule")
        if self.policy is None:
            self._check_fixed()
        if self.sparsity is not None:
            check_sparsity("sparsity", self.sparsity)
        if self.units and self.rule.score_shape(Size((2, 3))) != Size((2, 1)):
            raise UserError(
                "units=True needs a policy with one score per row: policy='s3router', "
                "options={'granularity': 'row'}"
            )

    def _check_fixed(self) -> None:
        said = (self.density, self.sparsity, self.schedule, self.every, self.scope)
        if any(each is not None for each in said) or self.options or self.units:
            raise UserError(
                "masks without a policy stay as they are: leave out density, options and the like, "
                "or give a policy"
            )
        if self.trains_weights is False:
            raise UserError("fixed masks on frozen weights learn nothing: give a policy")

    @property
    def rule(self) -> MaskPolicy:
        """The policy, with its options; raises UserError for an unknown one."""
        if self.policy is None:
            fixed: MaskPolicy = POLICIES.build(_OF_FIXED_MASKS)
            return fixed
        policy: MaskPolicy = POLICIES.build(self.policy, **self.options)
        return policy

    @property
    def trains(self) -> bool:
        """Whether the masked weights train."""
        return self.rule.trains_weights if self.trains_weights is None else self.trains_weights

    @property
    def writes_weights(self) -> bool:
        """Whether values are written to the masked weights themselves."""
        return self.rule.writes_weights(self.trains)

    @property
    def ranked_together(self) -> str:
        """The scope: all sites together where weights are trained, unless it is said."""
        if self.scope is not None:
            return self.scope
        return "global" if self.rule.trains_weights and not self.units else "site"

    @property
    def rest(self) -> int | None:
        """The updates from one choice of masks to the next; None for masks that stay."""
        if self.policy is None or self.every is not None:
            return self.every
        return _REST if self.rule.trains_weights else 1

    def schedule_on(self, sites: Sequence[Site], masks: MaskSet | None) -> Schedule:
        """The densities of a run.

        Args:
            sites: with masks to be.
            masks: those to begin with, of these sites.

        Raises:
            UserError: none is said and none is given, another than the policy's pattern keeps, or
                one that the policy, or ``masks``, cannot begin with.
        """
        said = self._said_schedule()
        if masks is not None:
            if said is None:
                return _schedule_of_masks(masks, self.ranked_together)
            _check_start_of_masks(masks, said, sites)
            return said
        if said is None:
            raise UserError(
                f"how much is policy {self.policy!r} to keep? give density, sparsity or schedule"
            )
        start = min(said.density(site, 0) for site in sites)
        if start < 1.0 and not self.rule.ranks_at_first:
            raise UserError(
                f"policy {self.policy!r} cannot tell weights apart before it has trained them: "
                f"begin with a density of 1.0, not {start:g}"
            )
        return said

    def _said_schedule(self) -> Schedule | None:
        density = self.density if self.sparsity is None else 1.0 - self.sparsity
        if self.schedule is not None:
            return self.schedule
        if self.rule.pattern is not None:
            n, m = self.rule.pattern
            if density is not None and abs(density - n / m) > 1e-9:
                raise UserError(
                    f"keeping {n} of every {m} is a density of {n / m:g}, not {density:g}; leave "
                    "the density out"
                )
            density = n / m
        if density is None:
            return None
        if self.rule.starts_dense and density < 1.0:
            raise UserError(
                f"policy {self.policy!r} begins dense and removes more and more: in place of one "
                f"density give schedule=ProgressiveSchedule(1.0, {density:g}, begin=0, end=UPDATE)"
            )
        return ConstantSchedule(density)

    def describe(self, schedule: Schedule, sites: Sequence[Site]) -> str:
        """In words such as "policy=parp density=0.5", for provenance."""
        densities = sorted({round(schedule.density(site, 1 << 60), 6) for site in sites})
        facts = {
            "policy": self.policy or "fixed",
            **{key: self.options[key] for key in sorted(self.options)},
            "density": densities[0] if len(densities) == 1 else "that of each site",
            "scope": self.ranked_together,
            "every": self.rest,
            "weights": "trained" if self.trains else "frozen",
            "seed": self.seed,
        }
        return " ".join(f"{key}={value}" for key, value in facts.items() if value is not None)


def _schedule_of_masks(masks: MaskSet, scope: str) -> Schedule:
    """One at which each site, or all together, keep as many entries as given masks do."""
    if masks.tally.kept == 0:
        raise UserError("the masks keep nothing; give the density to go on with")
    if scope == "global":
        return ConstantSchedule(density_that_keeps(masks.tally.kept, masks.tally.total))
    tallies = masks.tallies(str)
    for site, tally in tallies.items():
        if tally.kept == 0:
            raise UserError(f"the masks keep nothing of {site}; give the density to go on with")
    densities = {site: density_that_keeps(t.kept, t.total) for site, t in tallies.items()}
    return ConstantSchedule(masks.density, densities)


def _check_start_of_masks(masks: MaskSet, schedule: Schedule, sites: Sequence[Site]) -> None:
    """Given masks keep what a schedule begins with."""
    sizes = {site.name: masks.packed(site.name).tally.total for site in sites}
    claimed = sum(schedule.density(site, 0) * sizes[site.name] for site in sites)
    claimed /= sum(sizes.values())
    if abs(claimed - masks.density) > _TOLERANCE:
        raise UserError(
            f"the masks keep {masks.density:.4g}, but training is to begin with a density of "
            f"{claimed:.4g}; leave the density out to keep as much as the masks do"
        )
