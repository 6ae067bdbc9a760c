"""Errors of layer plans without training, sharing work between plans.

Each batch goes through what comes before the layers once, and through each layer once for all plans
that have kept the same layers before it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from speechprune.backbones import find_backbone
from speechprune.backbones.base import Entry
from speechprune.decoding.inference import batches, best_device
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan
from speechprune.layers.prefixes import passes, walk
from speechprune.layers.race import Race
from speechprune.models.loading import LoadedModel
from speechprune.models.sites import encoder_of_model

#: Bytes of states that are kept for the next step of a search, at most.
REMEMBERED = 2 << 30

_TEST = re.compile(r"(^|[^a-z])test(s|set|clean|other)?([^a-z]|$)", re.IGNORECASE)


@dataclass
class Passes:
    """Utterances through the front end, and through layers, each counted by itself."""

    front_end: int = 0
    layers: int = 0

    def add(self, other: Passes) -> None:
        self.front_end += other.front_end
        self.layers += other.layers


class Measured(ABC):
    """What a plan does to what a model tells of the utterances, or examples, of a split.

    Attributes:
        metrics: kinds of errors, and how tables call them.
        stopped: whether the plan was out of the race before everything was heard.
    """

    #: What is heard, in tables.
    unit: ClassVar[str]

    def __init__(self, plan: LayerPlan, metrics: Mapping[str, str]) -> None:
        self.plan = plan
        self.metrics = metrics
        self.stopped = False

    @property
    @abstractmethod
    def heard(self) -> int:
        """How many were heard."""

    @abstractmethod
    def note(self, index: int, told: Any) -> None:
        """Take what the model told of one, by its place in the split."""

    @abstractmethod
    def rate(self, metric: str) -> float:
        """The share of errors by ``metric`` in what was heard."""

    @abstractmethod
    def errors(self, metric: str, index: int) -> int:
        """The errors by ``metric`` in one that was heard."""

    def rank(self, metric: str) -> tuple[bool, float, tuple[int, ...]]:
        """Best first: those that heard everything, then fewer errors, then earlier layers."""
        return self.stopped, self.rate(metric), self.plan.dropped

    def describe(self) -> dict[str, Any]:
        """As a row to read by program."""
        return {**self.plan.describe(), **self.facts}

    @property
    def facts(self) -> dict[str, Any]:
        """What was measured."""
        rates = {metric: self.rate(metric) for metric in self.metrics}
        return {**rates, self.unit: self.heard, "stopped": self.stopped}


Found = TypeVar("Found", bound=Measured)


class Verifier(ABC, Generic[Found]):
    """Measures plans for one model on one split.

    Args:
        sizes: of what is heard, in samples or symbols.
        max_tokens: of these in a batch, padding included.
        batch_size: most utterances or texts in a batch.
        remember: keep what enters the first layer, up to `REMEMBERED` bytes, for the next
            measurement.

    Attributes:
        made: passes so far.
        alone: passes that evaluating plan by plan would have made.
    """

    #: The kinds of errors that plans may be ranked by, and how tables call them.
    metrics: Mapping[str, str]
    #: The usual one.
    metric: str

    def __init__(
        self,
        loaded: LoadedModel,
        sizes: Sequence[int],
        *,
        max_tokens: int,
        batch_size: int | None = None,
        remember: bool = False,
    ) -> None:
        self.loaded = loaded
        self.encoder = encoder_of_model(loaded.model)
        self.family = find_backbone(self.encoder)
        self.layers = self.family.layers(self.encoder)
        self.count = len(sizes)
        self.batches = list(batches(sizes, max_tokens, batch_size))
        self.made, self.alone = Passes(), Passes()
        self._room = REMEMBERED if remember else 0
        self._entries: dict[int, tuple[list[int], Entry | None]] = {}
        loaded.model.to(best_device())

    @abstractmethod
    def start(self, plan: LayerPlan) -> Found:
        """What a plan does, before anything was heard."""

    @abstractmethod
    def read(self, batch: Sequence[int]) -> tuple[list[int], Mapping[str, Any]]:
        """What of a batch is long enough to be heard, and the arguments of `Backbone.enter`."""

    @abstractmethod
    def tell(self, entry: Entry, output: Tensor) -> Iterable[Any]:
        """What the model tells of each of a batch by the encoder's output, (B, T, C)."""

    def check_metric(self, metric: str, race: Race | None) -> None:
        """Raise UserError if plans cannot be ranked by ``metric``, or race by it."""
        if metric not in self.metrics:
            raise UserError(
                f"plans for {self.loaded.path} are ranked by {' or '.join(self.metrics)}, not by "
                f"{metric}"
            )

    def measure(
        self, plans: Sequence[LayerPlan], metric: str, race: Race | None = None
    ) -> list[Found]:
        """Let each plan hear the split, in order.

        Args:
            metric: what a race is decided by.
            race: stops plans that are clearly worse than the best; batches then come in the race's
                order.

        Raises:
            UserError: audio is missing or unreadable, a plan is for another model, or as
                `check_metric`.
        """
        self.check_metric(metric, race)
        for plan in plans:
            if plan.layers != len(self.layers):
                raise UserError(
                    f"a plan for {plan.layers} layers does not fit a model of {len(self.layers)}"
                )
        measured = [self.start(plan) for plan in plans]
        order = list(range(len(self.batches)))
        if race is not None:
            np.random.default_rng(race.seed).shuffle(order)
        referee = _Referee(race, measured, metric, len(self.batches))
        with tqdm(
            total=self.count, unit="utterance", desc=f"{len(plans)} plans", disable=None
        ) as bar:
            for number in order:
                self._hear(number, referee.running, measured)
                referee.note(self.batches[number])
                bar.update(len(self.batches[number]))
        self.alone.add(_alone(plans, self.count))
        return measured

    @torch.inference_mode()
    def _hear(self, number: int, running: Sequence[int], measured: Sequence[Measured]) -> None:
        """Let the plans that are running hear one batch."""
        batch = self.batches[number]
        heard, entry = self._enter(number)
        for index in batch:
            for plan in running if index not in heard else ():
                measured[plan].note(index, None)
        if entry is None:
            return
        kept = [measured[plan].plan.kept for plan in running]
        self.made.layers += passes(kept) * len(batch)
        through = self._through(entry)
        for place, state in walk(kept, entry.state, through):
            output = self.family.leave(self.encoder, entry, state)
            for index, told in zip(heard, self.tell(entry, output)):
                measured[running[place]].note(index, told)

    def _through(self, entry: Entry) -> Any:
        return lambda layer, state: entry.through(self.layers[layer], state)

    def _enter(self, number: int) -> tuple[list[int], Entry | None]:
        """What of a batch is long enough to be heard, and what enters layer 0."""
        if number in self._entries:
            return self._entries[number]
        batch = self.batches[number]
        heard, source = self.read(batch)
        self.made.front_end += len(batch)
        entry = self.family.enter(self.encoder, **source) if heard else None
        found = heard, entry
        size = entry.state.nbytes if entry else 0
        if size <= self._room:
            self._room -= size
            self._entries[number] = found
        return found


class _Referee:
    """Knows which plans are running."""

    def __init__(
        self, race: Race | None, measured: Sequence[Measured], metric: str, batches: int
    ) -> None:
        self.race, self.measured, self.metric = race, measured, metric
        self.running = list(range(len(measured)))
        self.looks = race.looks(batches) if race else []
        self.errors: list[NDArray[np.int64]] = []

    def note(self, batch: Sequence[int]) -> None:
        """A batch was heard: stop plans, if it is time to look."""
        if self.race is None or len(self.running) == 1:
            return
        errors = np.zeros(len(self.measured), dtype=np.int64)
        for plan in self.running:
            errors[plan] = sum(self.measured[plan].errors(self.metric, i) for i in batch)
        self.errors.append(errors)
        if len(self.errors) not in self.looks:
            return
        look = self.looks.index(len(self.errors))
        stopped = self.race.clearly_worse(
            np.stack(self.errors, axis=1), self.running, look, len(self.looks), len(self.measured)
        )
        for plan in stopped:
            self.measured[plan].stopped = True
        self.running = [plan for plan in self.running if plan not in stopped]


def refuse_test(subset: str, allowed: bool) -> None:
    """Raise UserError for a subset that is named as a test set, unless it is allowed.

    What is chosen on test data looks better there than it is.
    """
    if _TEST.search(subset) and not allowed:
        raise UserError(
            f"{subset} is named as test data, on which nothing should be chosen; use a validation "
            "subset, or say --allow-test"
        )


def _alone(plans: Sequence[LayerPlan], utterances: int) -> Passes:
    """What evaluating plan by plan takes."""
    return Passes(len(plans) * utterances, sum(len(plan.kept) for plan in plans) * utterances)
