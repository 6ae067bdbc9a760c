"""What one head and one channel of a layer cost: parameters, and multiply-adds for so many frames.

Only products of matrices are counted, as is usual; biases, activations and norms are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from speechprune.slimming.units import KINDS, LayerUnits


@dataclass(frozen=True)
class Cost:
    """What a part of a model takes, for one utterance.

    Attributes:
        parameters: weights and biases.
        multiply_adds: one for each product that is added to a sum.
    """

    parameters: int
    multiply_adds: int

    def of(self, measure: str) -> int:
        """What a budget counts: the parameters, or, by the measure "multiply_adds", those."""
        return self.multiply_adds if measure == "multiply_adds" else self.parameters

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.multiply_adds + other.multiply_adds)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.parameters * times, self.multiply_adds * times)


def cost_of_head(units: LayerUnits, frames: int) -> Cost:
    """What goes with one head of D channels, of a layer of C channels, over T frames.

    Four projections multiply C by D entries a frame; queries by keys, and their weights by values,
    D entries for each pair of frames: 4 C D T + 2 D T^2 multiply-adds.
    """
    size, linear = units.head_size, (units.query, units.key, units.value)
    entries = size * (sum(layer.in_features for layer in linear) + units.out.out_features)
    return Cost(units.parameters_of_head, entries * frames + 2 * size * frames**2)


def cost_of_channel(units: LayerUnits, frames: int) -> Cost:
    """What goes with one channel of the feed-forward block, of a layer of C channels, over T
    frames: 2 C T multiply-adds."""
    entries = units.first.in_features + units.second.out_features
    return Cost(units.parameters_of_channel, entries * frames)


def unit_costs(layers: Iterable[LayerUnits], frames: int) -> dict[tuple[str, int], Cost]:
    """What goes with one unit, by kind and layer; see `cost_of_head` and `cost_of_channel`."""
    rules = {"heads": cost_of_head, "channels": cost_of_channel}
    return {(kind, each.layer): rules[kind](each, frames) for each in layers for kind in KINDS}
