"""Error rates of layer plans without training, sharing work between plans.

Each batch goes through the convolutional front end once, and through each layer once for all plans
that have kept the same layers before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from speechprune.backbones import find_backbone
from speechprune.backbones.base import Entry
from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.greedy import decode, spells_words
from speechprune.decoding.inference import (
    audible,
    batches,
    best_device,
    check_references,
    padded,
    read_audio,
    sample_rate,
)
from speechprune.decoding.scoring import ErrorCounts, count_text_errors
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan
from speechprune.layers.prefixes import passes, walk
from speechprune.layers.race import Race
from speechprune.manifests.manifest import Split
from speechprune.models.loading import LoadedRecogniser
from speechprune.models.sites import encoder_of_model, output_layer_of

METRICS = ("cer", "wer")
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


@dataclass
class Measured:
    """What a plan does to the transcripts.

    Attributes:
        words, characters: errors on each utterance heard, by its place in the split.
        texts: its transcripts, likewise.
        stopped: whether the plan was out of the race before every utterance was heard.
    """

    plan: LayerPlan
    words: dict[int, ErrorCounts] = field(default_factory=dict)
    characters: dict[int, ErrorCounts] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    stopped: bool = False

    def counts(self, metric: str) -> dict[int, ErrorCounts]:
        """Errors on each utterance by ``metric``, "wer" or "cer"."""
        return self.words if metric == "wer" else self.characters

    def rate(self, metric: str) -> float:
        """Errors per word or character of the utterances heard."""
        return sum(self.counts(metric).values(), ErrorCounts()).rate

    def rank(self, metric: str) -> tuple[bool, float, tuple[int, ...]]:
        """Best first: those that heard everything, then fewer errors, then earlier layers."""
        return self.stopped, self.rate(metric), self.plan.dropped

    def describe(self) -> dict[str, Any]:
        """As a row to read by program."""
        return {**self.plan.describe(), **self.facts}

    @property
    def facts(self) -> dict[str, Any]:
        """What was measured."""
        rates = {metric: self.rate(metric) for metric in METRICS}
        return {**rates, "utterances": len(self.texts), "stopped": self.stopped}


class Verifier:
    """Measures plans for one model on one split.

    A plan's transcripts are those that `speechprune.decoding.inference.evaluate` would get of the
    checkpoint without its layers.

    Args:
        remember: keep what the front end gave, up to `REMEMBERED` bytes, for the next measurement.

    Raises:
        UserError: the split has no texts, or texts in another alphabet.

    Attributes:
        made: passes so far.
        alone: passes that evaluating plan by plan would have made.
    """

    def __init__(
        self,
        loaded: LoadedRecogniser,
        split: Split,
        *,
        max_tokens: int = MAX_TOKENS,
        batch_size: int | None = None,
        remember: bool = False,
    ) -> None:
        check_references(loaded, split)
        self.loaded, self.split = loaded, split
        self.letters = spells_words(loaded.dictionary)
        self.encoder = encoder_of_model(loaded.model)
        self.family = find_backbone(self.encoder)
        self.layers = self.family.layers(self.encoder)
        frames = [utterance.frames for utterance in split.utterances]
        self.batches = list(batches(frames, max_tokens, batch_size))
        self.made, self.alone = Passes(), Passes()
        self._room = REMEMBERED if remember else 0
        self._entries: dict[int, tuple[list[int], Entry | None]] = {}
        loaded.model.to(best_device())

    @property
    def metric(self) -> str:
        """The usual one: characters for letters, "words" for units that stand alone."""
        return "cer" if self.letters else "wer"

    def measure(
        self, plans: Sequence[LayerPlan], metric: str, race: Race | None = None
    ) -> list[Measured]:
        """Transcribe the split by each plan, in order.

        Args:
            metric: what a race is decided by.
            race: stops plans that are clearly worse than the best; batches then come in the race's
                order.

        Raises:
            UserError: audio is missing or unreadable, or a plan is for another model.
        """
        for plan in plans:
            if plan.layers != len(self.layers):
                raise UserError(
                    f"a plan for {plan.layers} layers does not fit a model of {len(self.layers)}"
                )
        measured = [Measured(plan) for plan in plans]
        order = list(range(len(self.batches)))
        if race is not None:
            np.random.default_rng(race.seed).shuffle(order)
        referee = _Referee(race, measured, metric, len(self.batches))
        total = len(self.split.utterances)
        with tqdm(total=total, unit="utterance", desc=f"{len(plans)} plans", disable=None) as bar:
            for number in order:
                self._hear(number, referee.running, measured)
                referee.note(self.batches[number])
                bar.update(len(self.batches[number]))
        self.alone.add(_alone(plans, total))
        return measured

    @torch.inference_mode()
    def _hear(self, number: int, running: Sequence[int], measured: Sequence[Measured]) -> None:
        """Transcribe one batch by the plans that are running."""
        batch = self.batches[number]
        heard, entry = self._enter(number)
        for index in batch:
            for plan in running if index not in heard else ():
                self._note(measured[plan], index, "")
        if entry is None:
            return
        kept = [measured[plan].plan.kept for plan in running]
        self.made.layers += passes(kept) * len(batch)
        through = self._through(entry)
        for place, state in walk(kept, entry.state, through):
            texts = decode(self.loaded.dictionary, self._emissions(entry, state))
            for index, text in zip(heard, texts):
                self._note(measured[running[place]], index, text)

    def _note(self, measured: Measured, index: int, text: str) -> None:
        """What a plan made of an utterance."""
        reference = self.split.utterances[index].text
        found = count_text_errors(reference, text, letters=self.letters)
        measured.texts[index] = text
        measured.words[index], measured.characters[index] = found

    def _through(self, entry: Entry) -> Any:
        return lambda layer, state: entry.through(self.layers[layer], state)

    def _enter(self, number: int) -> tuple[list[int], Entry | None]:
        """The utterances of a batch that are long enough to be heard, and what enters layer 0."""
        if number in self._entries:
            return self._entries[number]
        rate = sample_rate(self.loaded)
        batch = self.batches[number]
        audio = [read_audio(self.split.root / self.split.utterances[i].path, rate) for i in batch]
        places = audible(self.loaded, audio)
        self.made.front_end += len(batch)
        entry = None
        if places:
            source = padded(self.loaded, [audio[place] for place in places])
            entry = self.family.enter(self.encoder, **source)
        found = [batch[place] for place in places], entry
        size = entry.state.nbytes if entry else 0
        if size <= self._room:
            self._room -= size
            self._entries[number] = found
        return found

    def _emissions(self, entry: Entry, state: Tensor) -> Tensor:
        """CTC scores, (T, B, symbols)."""
        output = self.family.leave(self.encoder, entry, state).transpose(0, 1)
        model: Any = self.loaded.model
        scores = {
            "encoder_out": output_layer_of(model)(output),
            "padding_mask": entry.padding,
        }
        emissions: Tensor = model.get_logits(scores)
        return emissions


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
            counts = self.measured[plan].counts(self.metric)
            errors[plan] = sum(counts[index].errors for index in batch)
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
