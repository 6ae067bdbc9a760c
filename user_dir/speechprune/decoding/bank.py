"""What tasks of a bank make of recordings: each by its own task, or by the one that is surest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from speechprune.bank.bank import Bank
from speechprune.bank.task import AUTO, LETTERS, UNITS
from speechprune.checkpoint.file import PathLike
from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.greedy import decode, spells_words
from speechprune.decoding.inference import (
    Evaluation,
    audible,
    batches,
    best_device,
    check_symbols,
    count_parameters,
    evaluation_of,
    in_batches,
    read_references,
    sample_rate,
    scores_of,
)
from speechprune.decoding.texts import texts_of
from speechprune.errors import UserError
from speechprune.files import kind_of
from speechprune.models.loading import LoadedModel, LoadedRecogniser, load_finetuned
from speechprune.models.shared import SharedModel
from speechprune.models.sites import output_layer_of


class Heard(NamedTuple):
    """What the head that is surest of a recording makes of it.

    Attributes:
        task: its name.
        confidence: the mean over frames of the logarithm of the best symbol's probability; minus
            infinity for a recording without a frame.
    """

    task: str
    text: str
    confidence: float


class BankModel(SharedModel):
    """A bank on the device that is there, which hears recordings by any of its tasks.

    Threads may call its methods at once: each waits for its turn.
    """

    def __init__(self, path: PathLike) -> None:
        super().__init__(path, best_device())

    def transcribe(self, items: Sequence[tuple[np.ndarray, str]]) -> list[str]:
        """The text of each recording by its task, in order; classes are parted by tabs.

        All recordings of a task are heard together, so that each task is switched to once.

        Args:
            items: recordings, float32 (samples,) at the rate of the task's model, each with the
                name of a task, or "auto" for the one that is surest.

        Raises:
            UserError: there is no such task, or none that writes texts for "auto".
        """
        names = list(dict.fromkeys(name for _, name in items))
        for name in names:
            if name != AUTO:
                self.bank.about(name)
        texts = [""] * len(items)
        with self._alone:
            for name in names:
                chosen = [index for index, (_, task) in enumerate(items) if task == name]
                audio = [items[index][0] for index in chosen]
                if name == AUTO:
                    found = [heard.text for heard in self.hear(audio)]
                else:
                    found = texts_of(self.use(name), audio)
                for index, text in zip(chosen, found):
                    texts[index] = text
        return texts

    def hear(self, audio: Sequence[np.ndarray], tasks: Sequence[str] | None = None) -> list[Heard]:
        """Each recording by the task that is surest of it, of equally sure ones the first.

        Args:
            audio: float32 recordings of (samples,), all at the one rate of the tasks' models.
            tasks: that are tried, at least one; all that write texts by default.

        Raises:
            UserError: there is no task that writes texts, one of ``tasks`` does not, or they listen
                at several rates.
        """
        rates: dict[str, int] = {}
        by_task = []
        with self._alone:
            for name in self.recognisers() if tasks is None else tasks:
                loaded = self.recogniser(name)
                rates[name] = sample_rate(loaded)
                by_task.append(_with_confidence(loaded, name, audio))
        self._only(rates)
        return [max(of_one, key=lambda heard: heard.confidence) for of_one in zip(*by_task)]

    def recogniser(self, name: str) -> LoadedRecogniser:
        """As `use`, of a task that writes texts.

        Raises:
            UserError: as that, or it does not.
        """
        loaded = self.use(name)
        if isinstance(loaded, LoadedRecogniser):
            return loaded
        raise UserError(
            f"{self.bank.path}: the task {name!r} tells the classes of recordings and writes no "
            "text"
        )

    def recognisers(self) -> list[str]:
        """The tasks that write texts, in the order in which they were added.

        Raises:
            UserError: there is none.
        """
        found = [name for name in self.tasks if self._kind(name) in (LETTERS, UNITS)]
        if not found:
            raise UserError(f"{self.bank.path} has no task that writes texts, which {AUTO} needs")
        return found

    def rate(self) -> int:
        """What all tasks that write texts listen at, in Hz.

        Raises:
            UserError: there is none, or they listen at several rates.
        """
        return self._only({name: sample_rate(self.recogniser(name)) for name in self.recognisers()})

    def _kind(self, name: str) -> object:
        return self.bank.about(name).get("kind")

    def _only(self, rates: Mapping[str, int]) -> int:
        """The one rate of tasks by name; UserError if there are none, or several."""
        if not rates:
            raise UserError(f"name at least one of the tasks of {self.bank.path}")
        if len(set(rates.values())) > 1:
            listed = ", ".join(f"{name} {rate}" for name, rate in rates.items())
            raise UserError(
                f"{self.bank.path} has tasks for several sample rates ({listed} Hz); name one task "
                f"in place of {AUTO}"
            )
        return next(iter(rates.values()))


def is_bank(path: PathLike) -> bool:
    """Whether a file is one of safetensors, as banks are, and not a checkpoint."""
    return kind_of(Path(path)) == "safetensors"


def load_task(path: PathLike, task: str | None, data: PathLike | None = None) -> LoadedModel:
    """The model in a checkpoint, or that of a task of a bank.

    Args:
        task: its name; None for a checkpoint.
        data: as for `load_finetuned`; a bank has its dictionaries.

    Raises:
        UserError: the file cannot be read, it is a bank and no task is named, or it is none and one
            is.
    """
    if is_bank(path):
        if task is not None:
            return BankModel(path).use(task)
        names = ", ".join(Bank(path).names) or "it has none yet"
        raise UserError(f"{path} is a bank: name one of its tasks by --task ({names})")
    loaded = load_finetuned(path, data)
    if task is not None:
        raise UserError(
            f"{path} is a checkpoint of one task and not a bank: leave out --task {task}"
        )
    return loaded


def evaluate_surest(
    bank: BankModel,
    folder: Path,
    name: str,
    *,
    max_tokens: int = MAX_TOKENS,
    batch_size: int | None = None,
) -> tuple[Evaluation, dict[str, int]]:
    """Transcribe every utterance of a split by the task that is surest of it.

    Args:
        folder: of the manifest.
        name: of the split.
        max_tokens, batch_size: as for `evaluate`.

    Returns:
        As `evaluate`, with the mean density of all tasks and the parameters of the encoder and all
        heads; and how many utterances each task was surest of, in the order of the bank.

    Raises:
        UserError: as `evaluate`, the alphabet being that of all tasks together; or there is no task
            that writes texts, or some write words, and others units.
    """
    models = {task: bank.recogniser(task) for task in bank.recognisers()}
    loaded, *others = models.values()
    if len({spells_words(model.dictionary) for model in models.values()}) > 1:
        raise UserError(
            f"{bank.bank.path} has tasks that write words and tasks that write units, which no one "
            f"text can be compared with; name a task in place of {AUTO}"
        )
    split = read_references(loaded, folder, name)
    check_symbols([model.dictionary for model in models.values()], split, bank.bank.path)
    heard, seconds = in_batches(
        split.root,
        split.utterances,
        bank.rate(),
        lambda audio: bank.hear(audio, list(models)),
        max_tokens=max_tokens,
        batch_size=batch_size,
    )
    found = evaluation_of(loaded, split, [each.text for each in heard], seconds)
    heads = sum(count_parameters(output_layer_of(model.model)) for model in others)
    whole = replace(
        found,
        parameters=found.parameters + heads,
        density=mean(model.density for model in models.values()),
    )
    chosen = Counter(each.task for each in heard)
    return whole, {task: chosen[task] for task in models}


def _with_confidence(
    loaded: LoadedRecogniser, name: str, audio: Sequence[np.ndarray]
) -> list[Heard]:
    """What the model of the task ``name`` makes of recordings of (samples,)."""
    found = [Heard(name, "", -math.inf)] * len(audio)
    for batch in batches([len(samples) for samples in audio], MAX_TOKENS):
        heard = [batch[i] for i in audible(loaded, [audio[index] for index in batch])]
        if not heard:
            continue
        emissions, padding = scores_of(loaded, [audio[index] for index in heard])
        texts = decode(loaded.dictionary, emissions)
        for index, text, sure in zip(heard, texts, confidences(emissions, padding)):
            found[index] = Heard(name, text, sure)
    return found


def confidences(emissions: Tensor, padding: Tensor | None) -> list[float]:
    """How sure a model is of each utterance: the mean over its own frames of the logarithm of the
    best symbol's probability; minus infinity if that is no number.

    Args:
        emissions: CTC scores, (T, B, symbols).
        padding: of the frames, bool (B, T); None without padding.
    """
    best = emissions.float().log_softmax(-1).amax(-1).T.double().cpu()
    own = torch.ones_like(best, dtype=torch.bool) if padding is None else ~padding.cpu()
    # One by one: sums of other lengths would be rounded otherwise.
    means = [frames[mask].mean().item() for frames, mask in zip(best, own)]
    return [value if math.isfinite(value) else -math.inf for value in means]
