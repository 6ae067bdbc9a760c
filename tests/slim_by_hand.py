"""Progressive slimming written out by hand from its definitions, sharing no code with the package.

Scores and ranks are plain loops in float64; a unit is removed by setting weights to zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

#: By kind of units and layer.
Key = tuple[str, int]

ENTRIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "magnitude": lambda weight, gradient: weight.abs(),
    "gradient": lambda weight, gradient: gradient.abs(),
    "snip": lambda weight, gradient: (weight * gradient).abs(),
    "snip_momentum": lambda weight, gradient: (weight * gradient).abs(),
}
#: From nothing to a share s, as a function of the share x of the events.
SHAPES: dict[str, Callable[[float, float], float]] = {
    "exp": lambda s, x: 1 - (1 - s) ** x,
    "linear": lambda s, x: s * x,
    "cos": lambda s, x: s * (1 - math.cos(math.pi * x / 2)),
    "cubic": lambda s, x: s * (1 - (1 - x) ** 3),
    "intel_cube": lambda s, x: s * x**3,
}


@dataclass(frozen=True)
class HandLayer:
    """The weights of a layer; ``projections`` are those of query, key and value."""

    projections: Sequence[Tensor]
    out: Tensor
    second: Tensor
    heads: int

    @property
    def weights(self) -> list[Tensor]:
        return [*self.projections, self.out, self.second]


@dataclass(frozen=True)
class HandPlan:
    """What goes, and when: shares of units, or what is left of a budget.

    Attributes:
        shares: by kind, "heads" or "channels".
        keep: in place of shares: the share of ``total`` that is kept.
        by_parameters: costs are parameters, of which scores relative to their layer are means.
        costs: of one unit, by key, for a budget.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    criterion: str = "snip_momentum"
    begin: int = 0
    end: int = 6
    every: int = 2
    shape: str = "cubic"
    scope: str = "local"
    floor: float = 0.0
    cap: float = 0.98
    whole_layers: Sequence[int] = ()
    keep: float | None = None
    by_parameters: bool = False
    total: int = 0
    costs: Mapping[Key, int] = field(default_factory=dict)

    @property
    def kinds(self) -> list[str]:
        chosen = self.shares or {kind for kind, _ in self.costs}
        return [kind for kind in ("heads", "channels") if kind in chosen]

    @property
    def last(self) -> int:
        """The update of the last choice."""
        return self.begin + (self.end - self.begin) // self.every * self.every

    def event(self, update: int) -> int:
        """The number of the event at an update; 0 where nothing is removed."""
        since = update - self.begin
        is_event = since > 0 and since % self.every == 0 and update <= self.end
        return since // self.every if is_event else 0

    def share(self, target: float, event: int) -> float:
        last = (self.end - self.begin) // self.every
        return target if event == last else SHAPES[self.shape](target, event / last)


class SlimByHand:
    """Slimming of some layers: call `begin` before an update, and `observe` before its step."""

    def __init__(self, layers: Sequence[HandLayer], plan: HandPlan) -> None:
        self.layers = layers
        self.plan = plan
        self.update = 0
        self.scores: dict[Key, np.ndarray] = {}
        self.kept: dict[Key, np.ndarray] = {}
        for kind in plan.kinds:
            for number, layer in enumerate(layers):
                if number not in plan.whole_layers:
                    units = layer.heads if kind == "heads" else layer.second.shape[1]
                    self.scores[kind, number] = np.zeros(units)
                    self.kept[kind, number] = np.ones(units, dtype=bool)

    def begin(self, update: int) -> None:
        self.update = update
        event = self.plan.event(update)
        if event:
            self.kept.update(
                self.within_budget(event) if self.plan.costs else self.by_shares(event)
            )
        for (kind, number), kept in self.kept.items():
            for unit in np.flatnonzero(~kept):
                self.remove(kind, self.layers[number], int(unit))

    def remove(self, kind: str, layer: HandLayer, unit: int) -> None:
        if kind == "channels":
            layer.second.data[:, unit] = 0.0
            return
        size = layer.out.shape[1] // layer.heads
        own = slice(unit * size, (unit + 1) * size)
        for projection in layer.projections:
            projection.data[own] = 0.0
        layer.out.data[:, own] = 0.0

    # --- scores ------------------------------------------------------------------------------

    def observe(
        self, gradients: Sequence[Sequence[Tensor | None]] | None = None, scale: float = 1.0
    ) -> None:
        """Score by weights as they are, and gradients: of the parameters, or those given.

        After the last choice nothing is scored.
        """
        if self.update >= self.plan.last:
            return
        for kind, number in self.scores:
            layer = self.layers[number]
            grads = [w.grad for w in layer.weights] if gradients is None else gradients[number]
            if self.plan.criterion != "magnitude" and not any(
                grad is not None and grad.any() for grad in grads
            ):
                continue  # the layer was dropped
            pairs = [
                (weight.detach().double(), None if grad is None else grad.double() * scale)
                for weight, grad in zip(layer.weights, grads)
            ]
            entries = [ENTRIES[self.plan.criterion](*pair).numpy() for pair in pairs]
            now = self.of_heads(layer, entries) if kind == "heads" else entries[4].mean(0)
            decay = 0.9 if self.plan.criterion == "snip_momentum" else 0.0
            self.scores[kind, number] = decay * self.scores[kind, number] + now

    def of_heads(self, layer: HandLayer, entries: Sequence[np.ndarray]) -> np.ndarray:
        found = np.zeros(layer.heads)
        size = layer.out.shape[1] // layer.heads
        for head in range(layer.heads):
            own = slice(head * size, (head + 1) * size)
            means = [each[own].mean() for each in entries[:3]] + [entries[3][:, own].mean()]
            found[head] = sum(means) / 4
        return found

    # --- choices -----------------------------------------------------------------------------

    def by_shares(self, event: int) -> dict[Key, np.ndarray]:
        found = {}
        for kind, target in self.plan.shares.items():
            share = self.plan.share(target, event)
            layers = [key for key in self.scores if key[0] == kind]
            groups = [[key] for key in layers] if self.plan.scope == "local" else [layers]
            for group in groups:
                found.update(self.smallest_go(group, share))
        return found

    def smallest_go(self, keys: Sequence[Key], share: float) -> dict[Key, np.ndarray]:
        """One unit after the other goes, the smallest first, the later among equals."""
        values = {key: self.scores[key] for key in keys}
        if self.plan.scope == "global_normalised":
            values = {key: each / each.mean() for key, each in values.items()}
        local = self.plan.scope == "local"
        kept = {key: np.ones(len(each), dtype=bool) for key, each in values.items()}
        goes = round(share * sum(len(each) for each in values.values()))
        most = {
            key: min(len(each) - 1, len(each) if local else round(self.plan.cap * len(each)))
            for key, each in values.items()
        }
        order = ascending(values)
        gone = dict.fromkeys(keys, 0)
        floors = (
            {} if local else {k: int(min(self.plan.floor, share) * len(values[k])) for k in keys}
        )
        for limits, is_floor in ((floors, True), (most, False)):
            for key, unit in order:
                enough = not is_floor and sum(gone.values()) >= goes
                if kept[key][unit] and gone[key] < limits.get(key, 0) and not enough:
                    kept[key][unit], gone[key] = False, gone[key] + 1
        return kept

    def within_budget(self, event: int) -> dict[Key, np.ndarray]:
        """The smallest score for its cost goes until the rest is within the budget; then whatever
        fits is put back, the largest first."""
        plan = self.plan
        assert plan.keep is not None
        target = 1 - plan.keep
        share = plan.share(target, event)
        values = {
            key: each / (each.mean() if plan.by_parameters else plan.costs[key])
            for key, each in self.scores.items()
        }
        kept = {key: np.ones(len(each), dtype=bool) for key, each in values.items()}
        budget = (1 - share) * plan.total * (1 + 1e-12)
        gone = dict.fromkeys(values, 0)
        order = ascending(values)
        floors = {key: int(plan.floor * share / target * len(each)) for key, each in values.items()}
        for key, unit in order:
            if gone[key] < floors[key]:
                kept[key][unit], gone[key] = False, gone[key] + 1
        forced = {key: each.copy() for key, each in kept.items()}
        for key, unit in order:
            most = min(len(kept[key]) - 1, round(plan.cap * len(kept[key])))
            if kept[key][unit] and gone[key] < most and self.cost(kept) > budget:
                kept[key][unit], gone[key] = False, gone[key] + 1
        for key, unit in reversed(order):
            if forced[key][unit] and not kept[key][unit]:
                kept[key][unit] = True
                kept[key][unit] = self.cost(kept) <= budget
        return kept

    def cost(self, kept: Mapping[Key, np.ndarray]) -> int:
        """Of the whole model with these units left."""
        removed = sum(int((~each).sum()) * self.plan.costs[key] for key, each in kept.items())
        return self.plan.total - removed


def ascending(values: Mapping[Key, np.ndarray]) -> list[tuple[Key, int]]:
    """All units, the smallest value first; among equals the later layer, and the higher number."""
    places = {key: place for place, key in enumerate(values)}
    units = [(key, unit) for key, each in values.items() for unit in range(len(each))]
    return sorted(units, key=lambda it: (values[it[0]][it[1]], -places[it[0]], -it[1]))


def assert_state_is(
    state: Mapping[str, Tensor], hand: SlimByHand, prefix: str = "slim_controller."
) -> None:
    """Scores of a state dict are those of the reference, and so are the units that are kept."""
    assert {key for key in state if key.startswith(prefix)} == {
        f"{prefix}{kind}_{what}_{layer}"
        for kind, layer in hand.scores
        for what in ("scores", "kept")
    }
    for (kind, layer), scores in hand.scores.items():
        found = state[f"{prefix}{kind}_scores_{layer}"]
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), scores, rtol=2e-6, atol=1e-12)
        kept = state[f"{prefix}{kind}_kept_{layer}"].numpy()
        assert set(kept) <= {0.0, 1.0}
        np.testing.assert_array_equal(kept == 1.0, hand.kept[kind, layer], f"{kind} of {layer}")
