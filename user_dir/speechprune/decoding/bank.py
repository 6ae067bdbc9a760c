"""What the tasks of a bank make of recordings: each by its own task, or by the one that suits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch

from speechprune.bank.bank import Bank
from speechprune.bank.task import AUTO, LETTERS, UNITS
from speechprune.checkpoint.file import PathLike
from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.greedy import decode
from speechprune.decoding.inference import (
    Evaluation,
    audible,
    batches,
    best_device,
    evaluation_of,
    in_batches,
    padded,
    read_references,
    sample_rate,
    transcribe,
)
from speechprune.decoding.labelling import classify
from speechprune.errors import UserError
from speechprune.files import kind_of
from speechprune.models.loading import (
    LoadedLabeller,
    LoadedModel,
    LoadedRecogniser,
    load_finetuned,
)
from speechprune.models.shared import SharedModel


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
    """A bank on the device that is there, which hears recordings by any of its tasks."""

    def __init__(self, path: PathLike) -> None:
        super().__init__(path, best_device())

    def transcribe(self, items: Sequence[tuple[np.ndarray, str]]) -> list[str]:
        """The text of each recording by its task, in order; classes are parted by tabs.

        All recordings of a task are heard together, so that each task is switched to once.

        Args:
            items: recordings, float32 (samples,) at the rate of the task's model, each with the
                name of a task, or "auto" for the one that is surest.

        Raises:
            UserError: there is no such task.
        """
        texts = [""] * len(items)
        for name in dict.fromkeys(name for _, name in items):
            chosen = [index for index, (_, task) in enumerate(items) if task == name]
            audio = [items[index][0] for index in chosen]
            if name == AUTO:
                found = [heard.text for heard in self.hear(audio)]
            else:
                found = _by_task(self.use(name), audio)
            for index, text in zip(chosen, found):
                texts[index] = text
        return texts

    def hear(self, audio: Sequence[np.ndarray], tasks: Iterable[str] | None = None) -> list[Heard]:
        """Each recording by the task that is surest of it, of equally sure ones the first.

        Args:
            audio: float32 recordings of (samples,).
            tasks: that are tried; all that write texts by default.

        Raises:
            UserError: there is no task that writes texts.
        """
        best: list[Heard | None] = [None] * len(audio)
        for name in self.recognisers() if tasks is None else tasks:
            loaded = self.use(name)
            assert isinstance(loaded, LoadedRecogniser)
            for index, (text, confidence) in enumerate(_with_confidence(loaded, audio)):
                so_far = best[index]
                if so_far is None or confidence > so_far.confidence:
                    best[index] = Heard(name, text, confidence)
        return [heard for heard in best if heard is not None]

    def recognisers(self, *, letters: bool | None = None) -> list[str]:
        """The tasks that write texts: all, or those of words or of units, such as phones.

        Raises:
            UserError: there is none.
        """
        kinds = {None: (LETTERS, UNITS), True: (LETTERS,), False: (UNITS,)}[letters]
        found = [name for name in self.tasks if self.bank.about(name).get("kind") in kinds]
        if not found:
            raise UserError(f"{self.bank.path} has no task that writes {' or '.join(kinds)}")
        return found


def is_bank(path: PathLike) -> bool:
    """Whether a file is one of safetensors, as banks are, and not a checkpoint."""
    return kind_of(Path(path)) == "safetensors"


def load_task(path: PathLike, task: str | None, data: PathLike | None = None) -> LoadedModel:
    """The model in a checkpoint, or that of a task of a bank.

    Args:
        task: its name; None for a checkpoint.
        data: as for `load_finetuned`.

    Raises:
        UserError: the file cannot be read, it is a bank and no task is named, or it is none and one
            is.
    """
    if not is_bank(path):
        if task is not None:
            raise UserError(f"{path} is no bank, but of one task alone; leave out --task")
        return load_finetuned(path, data)
    if task is None:
        names = ", ".join(Bank(path).names) or "it has none yet"
        raise UserError(f"{path} is a bank: name one of its tasks by --task ({names})")
    return BankModel(path).use(task)


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
        As `evaluate`, with the mean density of all tasks; and how many utterances each task was
        surest of, in the order of the bank.

    Raises:
        UserError: as `evaluate`, or some tasks write words, and others units.
    """
    tasks = bank.recognisers()
    if len({bank.bank.about(task).get("kind") for task in tasks}) > 1:
        raise UserError(
            f"{bank.bank.path} has tasks that write words and tasks that write units, which no one "
            f"text can be compared with; name a task in place of {AUTO}"
        )
    densities = [bank.use(task).density for task in tasks]
    loaded = bank.use(tasks[0])
    assert isinstance(loaded, LoadedRecogniser)
    split = read_references(loaded, folder, name)
    heard, seconds = in_batches(
        split.root,
        split.utterances,
        sample_rate(loaded),
        lambda audio: bank.hear(audio, tasks),
        max_tokens=max_tokens,
        batch_size=batch_size,
    )
    chosen = Counter(each.task for each in heard)
    found = evaluation_of(loaded, split, [each.text for each in heard], seconds)
    return replace(found, density=mean(densities)), {task: chosen[task] for task in tasks}


def _by_task(loaded: LoadedModel, audio: Sequence[np.ndarray]) -> list[str]:
    """What a task's model makes of recordings of (samples,)."""
    texts = [""] * len(audio)
    for batch in batches([len(samples) for samples in audio], MAX_TOKENS):
        recordings = [audio[index] for index in batch]
        if isinstance(loaded, LoadedLabeller):
            found = ["\t".join(classes or ()) for classes in classify(loaded, recordings)]
        else:
            assert isinstance(loaded, LoadedRecogniser)
            found = transcribe(loaded, recordings)
        for index, text in zip(batch, found):
            texts[index] = text
    return texts


def _with_confidence(
    loaded: LoadedRecogniser, audio: Sequence[np.ndarray]
) -> list[tuple[str, float]]:
    """The text of each recording of (samples,), and how sure the model is of it."""
    found = [("", -math.inf)] * len(audio)
    for batch in batches([len(samples) for samples in audio], MAX_TOKENS):
        heard = [batch[i] for i in audible(loaded, [audio[index] for index in batch])]
        if not heard:
            continue
        with torch.inference_mode():
            output = loaded.model(**padded(loaded, [audio[index] for index in heard]))
            emissions = loaded.model.get_logits(output)
            best = emissions.float().log_softmax(-1).amax(-1).T
            own = torch.ones_like(best, dtype=torch.bool)
            if output["padding_mask"] is not None:
                own = ~output["padding_mask"]
            sure = (best.masked_fill(~own, 0.0).sum(1) / own.sum(1)).tolist()
        for index, text, confidence in zip(heard, decode(loaded.dictionary, emissions), sure):
            found[index] = (text, confidence)
    return found
