"""SlimController: scores the heads and channels of a model in training, and removes the least."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechprune.errors import UserError
from speechprune.slimming.criteria import Criterion
from speechprune.slimming.scores import accumulate, channel_scores, head_scores
from speechprune.slimming.targets import PerUnit, ProgressiveTarget
from speechprune.slimming.units import LayerUnits

#: What a model calls its controller, and so how the keys of its state begin.
SLIM_CONTROLLER = "slim_controller"
#: What its state tells of the units of a kind in a layer: their scores, and which of them stay.
SCORES, KEPT = "scores", "kept"


class _Removed(NamedTuple):
    """The rows or columns of what is removed.

    Attributes:
        numbers: theirs, int64.
        kept: float32, for all rows or columns: 0 for those, 1 for the others.
    """

    numbers: Tensor
    kept: Tensor


class SlimController(nn.Module):
    """Structured masks on a model whose weights train.

    Assign it to the model as ``slim_controller``: ``model.train()``, ``model.eval()`` and fairseq's
    ``model.set_num_updates()`` then reach it. Elsewhere call :meth:`set_num_updates` before each
    training step, and everywhere :meth:`observe` between its last backward pass and the step.

    A removed unit is one whose weights are zero: the rows of a head in query, key and value, its
    columns in out, and a channel's column in the second feed-forward layer. They are set to zero
    after each step. The other entries of a removed channel, and all biases, change nothing then, so
    that cutting the unit out leaves the model's output as it is. What has been removed is scored
    like all else, and could come back, from zero. But weights of zero have no magnitude and nothing
    to lose, so that of our criteria only ``gradient``, which looks at no weights, brings any back.

    The network that is validated and saved is the one that the next update would use: entering
    evaluation and :meth:`settle` do what the update to come begins with.

    Args:
        units: of each layer; the weights are loaded already.
        criterion: the rule that scores.
        target: how much is to stay, and when.
        whole_layers: 0-based layers that lose nothing.

    Raises:
        UserError: nothing is left that could be removed.
    """

    def __init__(
        self,
        units: Sequence[LayerUnits],
        criterion: Criterion,
        target: ProgressiveTarget,
        whole_layers: Collection[int] = (),
    ) -> None:
        super().__init__()
        self._units = {each.layer: each for each in units if each.layer not in whole_layers}
        self.criterion = criterion
        self.target = target
        if not self._units or not target.kinds:
            raise UserError("nothing is left that could be removed: every layer is to stay whole")
        self._keys = [(kind, layer) for kind in target.kinds for layer in self._units]
        for kind, layer in self._keys:
            size = self._units[layer].count(kind)
            device = self._units[layer].second.weight.device
            self.register_buffer(f"{kind}_{SCORES}_{layer}", torch.zeros(size, device=device))
            # 1 is kept and 0 removed; checkpoints hold floating-point tensors.
            self.register_buffer(f"{kind}_{KEPT}_{layer}", torch.ones(size, device=device))
        self._update: int | None = None
        self._stepping = False
        self._has_observed = False
        self._forget_choice()

    # --- when --------------------------------------------------------------------------------

    def set_num_updates(self, update: int) -> None:
        """Begin an update: remove units if it is time, and keep what was removed at zero.

        A second call with the same number does nothing.

        Raises:
            UserError: it is the last event, and no gradient has told of some units yet.
            FloatingPointError: a score is not a number.
        """
        if update != self._update:
            self._prepare(update)
            self._update = update
        self._stepping = False

    def settle(self) -> None:
        """After a training step: do at once what the next update begins with."""
        if self._stepping and self._update is not None:
            self._prepare(self._update + 1)
            self._update = self._update + 1
        self._stepping = False

    def train(self, mode: bool = True) -> SlimController:
        if self.training and not mode:
            self.settle()
        return super().train(mode)

    @torch.no_grad()
    def observe(self, scale: float | Tensor = 1.0) -> None:
        """After the backward passes of an update, before the step: score the units.

        At each update up to the last event, after which nothing is chosen any more.

        Gradients are read where they are. In fairseq's loop the plugin calls it on every process,
        once all have shared their gradients; not if half precision overflowed.

        Args:
            scale: what the optimizer multiplies the gradients by before it uses them.
        """
        self._stepping = self._has_observed = True
        if self._update is not None and self._update >= self.target.schedule.events[-1]:
            return
        for kind, layer in self._keys:
            now = self._scores_now(kind, layer)
            if now is None:
                continue
            if self.criterion.needs_gradient:
                now = now * scale
            before = self._buffer(SCORES, kind, layer)
            before.copy_(accumulate(self.criterion, before, now))

    @torch.no_grad()
    def _prepare(self, update: int) -> None:
        event = self.target.schedule.event_at(update)
        if event:  # event 0 removes nothing
            self._choose(event)
        self._write_zeros()

    # --- scores ------------------------------------------------------------------------------

    def _scores_now(self, kind: str, layer: int) -> Tensor | None:
        """The scores of this update; None if its gradients are missing, as the layer is frozen."""
        units = self._units[layer]
        weights = (
            [linear.weight for linear in (units.query, units.key, units.value, units.out)]
            if kind == "heads"
            else [units.second.weight]
        )
        gradients = [weight.grad for weight in weights]
        if self.criterion.needs_gradient and any(gradient is None for gradient in gradients):
            return None
        plain = [weight.detach() for weight in weights]
        if kind == "heads":
            return head_scores(self.criterion, plain, gradients, units.heads)
        return channel_scores(self.criterion, plain[0], gradients[0])

    def _choose(self, event: int) -> None:
        if not self._have_scores():
            # fairseq tells the update before it loads a checkpoint with the scores. And layerdrop
            # may have passed a layer over in all updates so far: the next event makes up for it.
            if not self._has_observed or event < len(self.target.schedule.events) - 1:
                return
            raise UserError(
                f"heads and channels are to be removed at update "
                f"{self.target.schedule.events[event]}, but no gradient has ever reached those of "
                "a layer; train every layer, with a smaller model.layerdrop or a later "
                "model.prune_end"
            )
        scores: PerUnit = {key: self._buffer(SCORES, *key) for key in self._keys}
        for key, kept in self.target.select(scores, event).items():
            self._buffer(KEPT, *key).copy_(kept)
        self._forget_choice()

    def _have_scores(self) -> bool:
        seen = [bool(self._buffer(SCORES, *key).any()) for key in self._keys]
        return all(seen) if self.criterion.needs_gradient else any(seen)

    # --- weights -----------------------------------------------------------------------------

    def _write_zeros(self) -> None:
        """Set the weights of what is removed to zero, in the optimizer's copies too."""
        for kind, layer in self._keys:
            removed = self._removed_entries(kind, layer)
            if removed is None:
                continue
            units = self._units[layer]
            if kind == "heads":
                for linear in (units.query, units.key, units.value):
                    _zero_rows(linear.weight, removed.numbers)
                _zero_columns(units.out.weight, removed.kept)
            else:
                _zero_columns(units.second.weight, removed.kept)

    def _forget_choice(self) -> None:
        """Drop what was found of the units that stay: others may stay now, or elsewhere."""
        self._removed: dict[tuple[str, int], _Removed | None] = {}
        self._shares_removed: dict[str, float] | None = None

    def _removed_entries(self, kind: str, layer: int) -> _Removed | None:
        """The rows or columns that are zero, on the device of the weights; None if there are none.
        They are found once per choice, since finding them waits for the device."""
        key = (kind, layer)
        if key not in self._removed:
            units = self._units[layer]
            kept = self._buffer(KEPT, kind, layer)
            if kind == "heads":
                kept = kept.repeat_interleave(units.head_size)
            kept = kept.to(units.second.weight.device)
            numbers = (kept == 0).nonzero().flatten()
            self._removed[key] = _Removed(numbers, kept) if len(numbers) else None
        return self._removed[key]

    # --- what others ask ---------------------------------------------------------------------

    def stats(self) -> dict[str, float]:
        """The share of each kind's units that is removed, of all layers that may lose some.

        Counted once per choice, since counting waits for the device.
        """
        if self._shares_removed is None:
            self._shares_removed = {}
            for kind in self.target.kinds if self._keys else ():
                kept = torch.cat([self._buffer(KEPT, kind, layer) for layer in self._units])
                self._shares_removed[f"{kind}_removed"] = int((kept == 0).sum()) / kept.numel()
        return dict(self._shares_removed)

    def removed_parameters(self) -> int:
        """Weights and biases of all that is removed."""
        gone = {key: int((self._buffer(KEPT, *key) == 0).sum()) for key in self._keys}
        return sum(
            units.parameters_of(gone.get(("heads", layer), 0), gone.get(("channels", layer), 0))
            for layer, units in self._units.items()
        )

    def penalty(self) -> Tensor | None:
        """What is added to the loss: nothing."""
        return None

    def fold(self) -> None:
        """Leave the model as it is, for what is removed is zero already; nothing of this controller
        stays in its state dict."""
        self.settle()
        for kind, layer in self._keys:
            delattr(self, f"{kind}_{SCORES}_{layer}")
            delattr(self, f"{kind}_{KEPT}_{layer}")
        self._keys = []
        self._forget_choice()

    def _buffer(self, what: str, kind: str, layer: int) -> Tensor:
        buffer: Tensor = getattr(self, f"{kind}_{what}_{layer}")
        return buffer

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SlimController:
        self._forget_choice()
        # Scores keep their precision when a model is made one of half precision.
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget_choice()
        self._update = None
        self._stepping = False


def _zero_rows(parameter: Tensor, numbers: Tensor) -> None:
    for copy in _copies(parameter):
        copy.index_fill_(0, numbers, 0.0)


def _zero_columns(parameter: Tensor, kept: Tensor) -> None:
    # Columns lie apart in memory: to read and write all of it takes half the time.
    for copy in _copies(parameter):
        copy.mul_(kept.to(copy.dtype))


def _copies(parameter: Tensor) -> list[Tensor]:
    """A parameter's values, and the copy of them that the plugin names: an optimizer for half
    precision keeps and steps it."""
    master = getattr(parameter, "master_copy", None)
    return [parameter.data] if master is None else [parameter.data, master.data]
