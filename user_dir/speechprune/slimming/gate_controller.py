"""GateController: hard concrete gates on heads and channels, led to a target share by a Lagrangian.

Peng et al., "DPHuBERT: Joint Distillation and Pruning of Self-Supervised Speech Models",
Interspeech 2023 (arXiv 2305.17651).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from speechprune.errors import UserError
from speechprune.slimming.cost import unit_costs
from speechprune.slimming.gates import HardConcrete
from speechprune.slimming.lagrangian import Lagrangian
from speechprune.slimming.rescaling import RATE
from speechprune.slimming.units import KINDS, LayerUnits

#: Share of the units of each kind that starts as good as dropped, in DPHuBERT.
DROP_RATES = {"heads": 0.01, "channels": 0.5}


@dataclass(frozen=True)
class _Place:
    """A linear layer whose input is made of units.

    Attributes:
        kind: of the units.
        units: how many there are.
        size: entries of the input that belong to one unit.
        cost: of one unit, as a share of the teacher's cost.
    """

    kind: str
    linear: nn.Linear
    units: int
    size: int
    cost: float


@dataclass(frozen=True)
class _Gated:
    """A place with gates; ``handle`` takes them off."""

    place: _Place
    gate: HardConcrete
    handle: RemovableHandle


class GateController(nn.Module):
    """Gates on the heads and channels of one model.

    Assign it to the model as a submodule: ``model.train()`` and ``model.eval()`` then reach it, and
    fairseq's ``model.set_num_updates()`` and checkpoints too. In training every call of the model
    draws all gates anew, once; see `HardConcrete` for the noise. In evaluation the gates have fixed
    values, and those of units that go are exactly 0.

    The penalty is computed from parameters alone, so add it to the loss once per call of the model.
    Where torch's DistributedDataParallel looks for unused parameters, return it from the model's
    ``forward``, for only then does it see that the multipliers are used.

    Args:
        model: what is called once in a training step, and not computed again by activation
            checkpointing: the whole model, or its encoder.
        layers: the units of every layer; layers may differ in heads and channels.
        target: share of the teacher's cost to remove, from 0 to below 1.
        total: the teacher's cost, such as the number of its parameters.
        kinds: which units have gates, of `speechprune.slimming.units.KINDS`.
        costs: of one unit, by kind and layer; its parameters by default.
        begin: the update until which there is no penalty.
        warmup: updates from then on until the target is reached.
        rate: how many times the optimizer's learning rate gates and multipliers move.
        seed: of the starting values.

    Raises:
        UserError: nothing to put gates on, an unknown kind, a target that cannot be reached while
            each layer keeps one unit of each kind, or as `Lagrangian` and `HardConcrete`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[LayerUnits],
        target: float,
        total: float,
        *,
        kinds: Sequence[str] = KINDS,
        costs: Mapping[tuple[str, int], float] | None = None,
        begin: int = 0,
        warmup: int = 5000,
        rate: float = RATE,
        seed: int = 0,
    ) -> None:
        super().__init__()
        places = _places(layers, kinds, costs, total)
        device = places[0].linear.weight.device
        self.lagrangian: Lagrangian | None = Lagrangian(target, warmup, rate=rate).to(device)
        _check_reachable(target, places)
        self._begin = begin
        self._has_begun = begin <= 0
        self._has_penalty = False
        self._layers = tuple(layers)
        self._gated: list[_Gated] = []
        generator = torch.Generator().manual_seed(seed)
        for place in places:
            self._put_gate(place, generator, rate)
        # Under these names the parameters of the gates are saved.
        self.heads = nn.ModuleList(self._gates("heads"))
        self.channels = nn.ModuleList(self._gates("channels"))
        self._drawing = model.register_forward_pre_hook(self._draw)

    def _put_gate(self, place: _Place, generator: torch.Generator, rate: float) -> None:
        drop_rate = DROP_RATES[place.kind]
        gate = HardConcrete(place.units, drop_rate, generator, size=place.size, rate=rate)
        gate.to(place.linear.weight.device)
        handle = place.linear.register_forward_pre_hook(gate.scale_input)
        self._gated.append(_Gated(place, gate, handle))

    def _gates(self, kind: str) -> list[HardConcrete]:
        """The gates of one kind, layer by layer; none if the kind has no gates."""
        return [gated.gate for gated in self._gated if gated.place.kind == kind]

    def _draw(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A forward pre-hook of the model: take the noise of a training step."""
        if self.training:
            for gated in self._gated:
                gated.gate.draw()

    def set_num_updates(self, update: int) -> None:
        """Set the target to that of ``update``; a second call with the same number does nothing."""
        self._has_begun = update >= self._begin
        if self.lagrangian is not None:
            self.lagrangian.update = max(0, update - self._begin)

    def observe(self, scale: float | Tensor = 1.0) -> None:
        """After the backward passes of an update: see that the penalty was asked for.

        Gates learn by their own gradients.

        Raises:
            UserError: it was not, so that nothing leads the gates to their target.
        """
        if self.lagrangian is not None and self._has_begun and not self._has_penalty:
            raise UserError(
                "gates learn from a penalty in the loss, which this criterion leaves out; set "
                "criterion._name=masked_ctc, distill_ctc or distill, of text sentence_prediction"
            )
        self._has_penalty = False

    def settle(self) -> None:
        """Do nothing: evaluation values follow the parameters of the gates at all times."""

    def share_removed(self) -> Tensor:
        """The expected share of the teacher's cost that the gates remove, with a gradient.

        A float32 scalar.
        """
        shares = [
            gated.place.cost * (gated.place.units - gated.gate.expected()) for gated in self._gated
        ]
        return torch.stack(shares).sum()

    def penalty(self) -> Tensor | None:
        """The Lagrangian term to add to the loss, a float32 scalar; None outside of training, and
        before the gates begin to learn."""
        if self.lagrangian is None or not self.training or not self._has_begun:
            return None
        self._has_penalty = True
        term: Tensor = self.lagrangian(self.share_removed())
        return term

    @torch.no_grad()
    def stats(self) -> dict[str, float]:
        """Expected share removed, its present target and the multipliers; empty after `fold`."""
        if self.lagrangian is None:
            return {}
        # All in one go: each transfer waits for the device.
        values = torch.cat([self.share_removed()[None], self.lagrangian.multipliers])
        share_removed, lambda1, lambda2 = values.tolist()
        return {
            "share_removed": share_removed,
            "target": self.lagrangian.current_target,
            "lambda1": lambda1,
            "lambda2": lambda2,
        }

    def kept(self) -> list[tuple[Tensor, Tensor]]:
        """The heads (H,) and channels (F,) that evaluation keeps in every layer, bool.

        All are kept where there are no gates, as after `fold`.

        Raises:
            FloatingPointError: a gate is not a number.
        """
        masks = {id(gated.place.linear): _kept(gated) for gated in self._gated}
        return [
            (
                masks.get(id(units.out), _all_kept(units.heads, units.out)),
                masks.get(id(units.second), _all_kept(units.channels, units.second)),
            )
            for units in self._layers
        ]

    def removed_parameters(self) -> int:
        """Weights and biases of all that evaluation removes; raises as :meth:`kept`."""
        return sum(
            units.parameters_of(int((~heads).sum()), int((~channels).sum()))
            for units, (heads, channels) in zip(self._layers, self.kept())
        )

    @torch.no_grad()
    def fold(self) -> list[tuple[Tensor, Tensor]]:
        """Multiply the evaluation values into the next weights, and take all gates off.

        The columns of units that go become exactly 0; in evaluation the output stays as it is, but
        for rounding. Nothing of the gates is left in the state dict.

        Returns:
            What :meth:`kept` said before.

        Raises:
            UserError: a weight is masked; the weights stay as they were.
            FloatingPointError: as :meth:`kept`.
        """
        for gated in self._gated:
            if parametrize.is_parametrized(gated.place.linear, "weight"):
                raise UserError("gates cannot be folded into masked weights: fold the masks first")
        kept = self.kept()
        for gated in self._gated:
            weight = gated.place.linear.weight
            values = gated.gate.evaluation_values().repeat_interleave(gated.place.size)
            weight.copy_(weight.float() * values)
            gated.handle.remove()
        self._drawing.remove()
        self._gated.clear()
        self.heads, self.channels, self.lagrangian = nn.ModuleList(), nn.ModuleList(), None
        return kept


def _places(
    layers: Sequence[LayerUnits],
    kinds: Sequence[str],
    costs: Mapping[tuple[str, int], float] | None,
    total: float,
) -> list[_Place]:
    """Where gates go: the heads and channels of one layer after the other."""
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"unknown units {kind!r}; gates are for {' and '.join(KINDS)}")
    if costs is None:
        costs = {key: cost.parameters for key, cost in unit_costs(layers, frames=0).items()}
    places = []
    for units in layers:
        for kind, linear, size in (
            ("heads", units.out, units.head_size),
            ("channels", units.second, 1),
        ):
            if kind in kinds:
                share = costs[kind, units.layer] / total
                places.append(_Place(kind, linear, units.count(kind), size, share))
    if not places:
        raise UserError("nothing to put gates on: the settings leave no heads and no channels")
    return places


def _check_reachable(target: float, places: Sequence[_Place]) -> None:
    most = sum((place.units - 1) * place.cost for place in places)
    if target > most:
        raise UserError(
            f"a share of {target} cannot be removed: at most {most:.4f} of the model can go while "
            "each layer keeps one unit of each kind; choose a smaller share"
        )


def _kept(gated: _Gated) -> Tensor:
    if not gated.gate.log_alpha.isfinite().all():
        raise FloatingPointError(f"gates of {gated.place.kind} are not finite: training diverged")
    return gated.gate.kept()


def _all_kept(units: int, linear: nn.Linear) -> Tensor:
    return torch.ones(units, dtype=torch.bool, device=linear.weight.device)
