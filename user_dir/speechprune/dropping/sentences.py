"""The error of a task on sentences, as a model without some layers does it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from speechprune.backbones.base import Entry
from speechprune.decoding import MAX_SYMBOLS
from speechprune.decoding.inference import best_device
from speechprune.decoding.sentences import (
    measured,
    predictions,
    symbols_in,
    targets_in,
)
from speechprune.dropping.verification import Measured, Verifier
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan
from speechprune.layers.race import Race
from speechprune.manifests.glue.tasks import TextTask
from speechprune.models.loading import LoadedSentences

#: 1 less the first metric of the task.
ERROR = "error"
#: The metric that is a mean over examples, so that those of a batch have errors of their own.
_COUNTED = "accuracy"


class Told(Measured):
    """What a plan does to the classes or values that are told.

    Args:
        task: what is told.
        targets: of all examples, (examples,).

    Attributes:
        outputs: of the output layer, (classes,), for each example heard, by its place in the split.
    """

    unit: ClassVar[str] = "examples"

    def __init__(
        self, plan: LayerPlan, metrics: Mapping[str, str], task: TextTask, targets: np.ndarray
    ) -> None:
        super().__init__(plan, metrics)
        self.task, self.targets = task, targets
        self.outputs: dict[int, np.ndarray] = {}

    @property
    def heard(self) -> int:
        return len(self.outputs)

    def note(self, index: int, told: np.ndarray) -> None:
        self.outputs[index] = told

    def rate(self, metric: str) -> float:
        """1 less the first metric, on the examples heard."""
        targets = self.targets[list(self.outputs)]
        return 1.0 - measured(self.task, list(self.outputs.values()), targets)[0].value

    def errors(self, metric: str, index: int) -> int:
        """Whether another class was told than the example has."""
        told = predictions(self.task, self.outputs[index][None])
        return int(told[0] != self.targets[index])


class SentenceVerifier(Verifier[Told]):
    """Measures plans by a task on sentences.

    What is told of a plan is what `speechprune.decoding.sentences.evaluate_sentences` would get of
    the checkpoint without its layers, but for rounding.

    Args:
        data: a split, as `speechprune.decoding.sentences.read_labelled` gives it.
    """

    metric = ERROR
    loaded: LoadedSentences

    def __init__(
        self,
        loaded: LoadedSentences,
        task: TextTask,
        data: Any,
        *,
        max_tokens: int = MAX_SYMBOLS,
        batch_size: int | None = None,
        remember: bool = False,
    ) -> None:
        self.task, self.data = task, data
        self.metrics: Mapping[str, str] = {ERROR: task.error}
        self.targets = targets_in(data)
        super().__init__(
            loaded,
            data.sizes[0].tolist(),
            max_tokens=max_tokens,
            batch_size=batch_size,
            remember=remember,
        )

    def check_metric(self, metric: str, race: Race | None) -> None:
        super().check_metric(metric, race)
        if race is not None and self.task.metrics[0] != _COUNTED:
            raise UserError(
                f"a race compares the errors of batches, which {self.task.metrics[0]} does not "
                "count; leave out --race"
            )

    def start(self, plan: LayerPlan) -> Told:
        return Told(plan, self.metrics, self.task, self.targets)

    def read(self, batch: Sequence[int]) -> tuple[list[int], Mapping[str, Any]]:
        symbols = symbols_in(self.data, batch).to(best_device())
        return list(batch), {"source": symbols, "padding_mask": None}

    def tell(self, entry: Entry, output: Tensor) -> Iterable[np.ndarray]:
        head = self.loaded.task.cfg.classification_head_name
        scores: np.ndarray = self.loaded.model.classification_heads[head](output).cpu().numpy()
        return scores
