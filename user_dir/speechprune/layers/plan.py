"""LayerPlan: which layers of a model to drop, as a validated value; and files of such plans."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

from speechprune.checksums import verified, write_json
from speechprune.errors import UserError

FORMAT = "speechprune.layer_plans"
VERSION = 1


@dataclass(frozen=True)
class LayerPlan:
    """Layers to drop, 0-based.

    Attributes:
        layers: depth of the model before.
        dropped: the layers that go, ascending.
        score: of the search that found it, larger is better; None if nothing searched.

    Raises UserError if a layer is named twice or does not exist, or if none goes or none stays.
    """

    layers: int
    dropped: tuple[int, ...]
    score: Optional[float] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dropped", tuple(sorted(self.dropped)))
        if not self.dropped:
            raise UserError("a layer plan needs at least one layer to drop")
        if len(set(self.dropped)) < len(self.dropped):
            raise UserError(f"a layer plan names each layer once, not {list(self.dropped)}")
        for layer in (self.dropped[0], self.dropped[-1]):
            if not 0 <= layer < self.layers:
                raise UserError(
                    f"plan for another model: it drops layer {layer} of a model with the layers "
                    f"0..{self.layers - 1}"
                )
        if len(self.dropped) == self.layers:
            raise UserError(f"the plan drops all {self.layers} layers: at least one must stay")

    @property
    def kept(self) -> tuple[int, ...]:
        """The layers that stay, ascending."""
        gone = set(self.dropped)
        return tuple(layer for layer in range(self.layers) if layer not in gone)

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The dropped layers as maximal runs of neighbours: first, and one behind the last."""
        found: list[tuple[int, int]] = []
        for layer in self.dropped:
            if found and found[-1][1] == layer:
                found[-1] = (found[-1][0], layer + 1)
            else:
                found.append((layer, layer + 1))
        return tuple(found)

    def then(self, later: LayerPlan) -> LayerPlan:
        """The layers that are gone once ``later`` was carried out too, on what this plan leaves.

        Raises:
            UserError: ``later`` is for a model of another depth.
        """
        kept = self.kept
        if later.layers != len(kept):
            raise UserError(f"a plan for {later.layers} layers, but {len(kept)} are left")
        return LayerPlan(self.layers, (*self.dropped, *(kept[layer] for layer in later.dropped)))

    def describe(self) -> dict[str, Any]:
        """As a row of a file of plans."""
        return {"drop": list(self.dropped), "score": self.score}


@dataclass(frozen=True)
class LayerPlans:
    """Plans for one model, best first, with where they came from.

    Attributes:
        plans: at least one.
        layers: depth of the model; None if the file does not tell.
        provenance: matrix, method, settings, versions.
        facts: more to tell of each plan in a file, such as its error rate; none, or one for each.
    """

    plans: tuple[LayerPlan, ...]
    layers: Optional[int] = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    facts: Sequence[Mapping[str, Any]] = ()

    def save(self, path: Union[str, Path]) -> None:
        """Write one JSON file, whole or not at all; raises UserError if it cannot be written."""
        state = {
            "format": FORMAT,
            "version": VERSION,
            "layers": self.layers,
            "provenance": self.provenance,
            "plans": [
                {**plan.describe(), **facts}
                for plan, facts in zip(self.plans, self.facts or [{}] * len(self.plans))
            ],
        }
        write_json(path, state)

    @classmethod
    def load(cls, path: Union[str, Path], layers: int) -> LayerPlans:
        """Read what `save` wrote, or a bare JSON list of rows, one row or list of layers.

        Args:
            layers: depth of the model that the plans are to be used on.

        Raises:
            UserError: the file cannot be read, holds no plans, or plans for another model.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not a file of layer plans: it is not JSON") from error
        header = found if isinstance(found, dict) and "plans" in found else {}
        try:
            verified(header)
        except UserError as error:
            raise UserError(
                f"{path} cannot be used: {error}; restore it, or remove its checksum if you edited "
                "it"
            ) from error
        if (header.get("format", FORMAT), header.get("version", VERSION)) != (FORMAT, VERSION):
            raise UserError(
                f"{path} is of {header.get('format')} {header.get('version')}; this program reads "
                f"{FORMAT} {VERSION}"
            )
        if header.get("layers") not in (None, layers):
            raise UserError(
                f"{path} has plans for a model of {header['layers']!r} layers, not of {layers}"
            )
        try:
            plans = tuple(_plan(row, layers) for row in _rows(header.get("plans", found)))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(
                f'{path} is not a file of layer plans; a row is {{"drop": [LAYER, ...]}}'
            ) from error
        if not plans:
            raise UserError(f"{path} holds no layer plan")
        provenance = header.get("provenance")
        return cls(plans, layers, provenance if isinstance(provenance, dict) else {})


def check_drop(drop: int, layers: int) -> None:
    """Raise UserError unless ``drop`` of ``layers`` layers can go, and some stay."""
    if not 1 <= drop < layers:
        raise UserError(f"cannot drop {drop} of {layers} layers; choose 1 to {layers - 1}")


def read_plans(text: str, layers: int) -> LayerPlans:
    """Plans for a model of ``layers`` layers from a command line.

    Args:
        text: a file of plans, or layers such as "3,5,7".

    Raises:
        UserError: as `LayerPlans.load`, or layers that do not exist.
    """
    if not text.strip():
        raise UserError("no plan is named; give a file of plans, or layers such as 1,3,5")
    parts = text.split(",")
    if all(part.strip().isdecimal() for part in parts) and not os.path.exists(text):
        return LayerPlans((LayerPlan(layers, tuple(map(int, parts))),), layers)
    return LayerPlans.load(text, layers)


def _rows(found: Any) -> Sequence[Any]:
    """The rows of a file; one row, or one list of layers, stands for itself."""
    if isinstance(found, dict) or (isinstance(found, list) and found and _is_layer(found[0])):
        return [found]
    return list(found)


def _plan(row: Any, layers: int) -> LayerPlan:
    dropped = row["drop"] if isinstance(row, dict) else row
    if not all(map(_is_layer, dropped)):
        raise TypeError("layers are numbers")
    score = row.get("score") if isinstance(row, dict) else None
    if score is not None and not math.isfinite(score):
        raise ValueError("scores are finite")
    return LayerPlan(layers, tuple(dropped), None if score is None else float(score))


def _is_layer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
