"""What slimming could take from an encoder: its heads and channels, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from speechprune.backbones import find_backbone
from speechprune.backbones.cost import EncoderCost, encoder_cost
from speechprune.checkpoint.file import PathLike
from speechprune.errors import UserError
from speechprune.rewriting.plain_checkpoint import read_plain
from speechprune.slimming.cost import Cost, unit_costs
from speechprune.slimming.removable import removable_units
from speechprune.slimming.units import KINDS, LayerUnits
from speechprune.tables import table


@dataclass(frozen=True)
class UnitsFound:
    """The heads, or the channels, of one layer.

    Attributes:
        count: how many there are.
        removable: how many of them can go, and leave the outputs equal.
        cost: of all of them.
    """

    count: int
    removable: int
    cost: Cost


@dataclass(frozen=True)
class SlimFindings:
    """What can go from an encoder.

    Attributes:
        encoder: what the whole encoder costs.
        layers: by kind (`KINDS`), the units of each layer.
    """

    encoder: EncoderCost
    layers: tuple[dict[str, UnitsFound], ...]

    def describe(self) -> dict[str, Any]:
        """As plain values, with costs and their shares of the encoder's."""
        return {
            **self.encoder.length.describe(),
            "frames": self.encoder.frames,
            "parameters": self.encoder.parameters,
            "multiply_adds": self.encoder.multiply_adds,
            "layers": [
                {
                    "layer": number,
                    **{kind: self._described(units) for kind, units in layer.items()},
                }
                for number, layer in enumerate(self.layers)
            ],
        }

    def _described(self, units: UnitsFound) -> dict[str, Any]:
        parameters, multiply_adds = self._shares(units.cost)
        return {
            "count": units.count,
            "removable": units.removable,
            "parameters": units.cost.parameters,
            "parameters_share": parameters,
            "multiply_adds": units.cost.multiply_adds,
            "multiply_adds_share": multiply_adds,
        }

    def _shares(self, cost: Cost) -> tuple[float, float]:
        return (
            cost.parameters / self.encoder.parameters,
            cost.multiply_adds / self.encoder.multiply_adds,
        )

    def in_words(self) -> str:
        """The same, as a table with a line for each layer and one for all together."""
        rows = [["layer"]]
        for kind in KINDS:
            rows[0] += [kind, "removable", "parameters", "multiply-adds"]
        numbered = [(str(number), layer) for number, layer in enumerate(self.layers)]
        for name, layer in [*numbered, ("all", self._together())]:
            rows.append([name])
            for kind in KINDS:
                units = layer[kind]
                shares = [f"{share:.1%}" for share in self._shares(units.cost)]
                rows[-1] += [str(units.count), str(units.removable), *shares]
        return (
            f"encoder: {self.encoder.parameters:,} parameters, {self.encoder.multiply_adds:,} "
            f"multiply-adds for {self.encoder.length} ({self.encoder.frames} frames)\n\n"
            f"{table(rows)}"
        )

    def _together(self) -> dict[str, UnitsFound]:
        together = {}
        for kind in KINDS:
            units = [layer[kind] for layer in self.layers]
            together[kind] = UnitsFound(
                sum(each.count for each in units),
                sum(each.removable for each in units),
                sum((each.cost for each in units), Cost(0, 0)),
            )
        return together


def find_units(
    path: PathLike, *, seconds: float | None = None, symbols: int | None = None
) -> SlimFindings:
    """Look at the heads and channels of a checkpoint, whose masks count as the zeros they make.

    Args:
        path: any pretrained or finetuned checkpoint of a known family.
        seconds: of audio that multiply-adds are counted for; None for the usual number.
        symbols: likewise, of an encoder of text.

    Raises:
        UserError: the file cannot be read, its layers have no heads and channels to cut out, or
            the length is of the other kind, too short for a frame, or too long for the model.
    """
    encoder = read_plain(path).encoder
    family = find_backbone(encoder)
    given = {"seconds": seconds, "symbols": symbols}
    own = family.length_unit.name
    for name, length in given.items():
        if name != own and length is not None:
            raise UserError(f"{path} does not take {name}, but {own}; give --{own} instead")
    cost = encoder_cost(encoder, given[own])
    units = family.units(encoder)
    return SlimFindings(cost, tuple(_found(layer, cost.frames) for layer in units))


def _found(units: LayerUnits, frames: int) -> dict[str, UnitsFound]:
    removable = removable_units(units)
    costs = unit_costs([units], frames)
    found = {}
    for kind, can_go in (("heads", removable.heads), ("channels", removable.channels)):
        count = units.count(kind)
        found[kind] = UnitsFound(count, len(can_go), costs[kind, units.layer] * count)
    return found
