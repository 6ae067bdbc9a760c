"""The classes of utterances, and how often they are right in a corpus.

What a model tells of an utterance does not depend on what shares its batch: see
`speechprune.backbones.apart`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.accuracy import Accuracy, SlotAccuracy
from speechprune.decoding.inference import (
    audible,
    best_device,
    count_parameters,
    in_batches,
    padded,
    refuse_no_numbers,
    sample_rate,
)
from speechprune.errors import UserError
from speechprune.manifests.classes import LabelledSplit, read_labelled_split
from speechprune.manifests.slots import CLASS_DICTIONARY, read_slots
from speechprune.models.loading import LoadedLabeller

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelEvaluation:
    """How well and how fast a model tells the classes of a corpus.

    Attributes:
        slots: each slot by itself.
        all_slots: utterances with the right class in every slot.
        parameters: tensor entries that inference reads, masked ones included, scores excluded.
        density: share of the maskable weights that is kept.
        audio_seconds: length of the corpus.
        seconds: time spent in the model, without reading files.
        device: "cpu" or "cuda".
    """

    slots: tuple[SlotAccuracy, ...]
    all_slots: Accuracy
    parameters: int
    density: float
    audio_seconds: float
    seconds: float
    device: str

    @property
    def rate_names(self) -> dict[str, str]:
        """What is compared where others have error rates, by its name in JSON, and what tables call
        it."""
        return {"error": "1 - accuracy"}

    @property
    def speed(self) -> float:
        """Seconds of audio told apart per second."""
        return self.audio_seconds / self.seconds


def classify(loaded: LoadedLabeller, audio: Sequence[np.ndarray]) -> list[tuple[str, ...] | None]:
    """The class of each slot, for one batch.

    Args:
        audio: float32 recordings of shape (samples,) at the model's sample rate; one that is too
            short for a single frame has no class, None.

    Raises:
        UserError: as `refuse_no_numbers`.
    """
    heard = audible(loaded, audio)
    found: list[tuple[str, ...] | None] = [None] * len(audio)
    if heard:
        with torch.inference_mode():
            output = loaded.model(**padded(loaded, [audio[i] for i in heard]))
            by_slot = loaded.model.logits_by_slot(output)
        refuse_no_numbers(loaded, by_slot)
        best = [scores.argmax(-1).tolist() for scores in by_slot]
        for index, numbers in zip(heard, zip(*best)):
            found[index] = tuple(s.classes[n] for s, n in zip(loaded.slots, numbers))
    return found


def read_labels(loaded: LoadedLabeller, folder: Path, name: str) -> LabelledSplit:
    """A split with the classes that a model's are compared with.

    Raises:
        UserError: as `read_labelled_split`, or the folder has other slots than the model.
    """
    own = [slot.name for slot in loaded.slots]
    there = [slot.name for slot in read_slots(folder)]
    if own != there:
        raise UserError(
            f"{loaded.path} tells {', '.join(own)}, but {folder / CLASS_DICTIONARY} lists "
            f"{', '.join(there)}; evaluate it on a folder with its slots, in its order"
        )
    return read_labelled_split(folder, name, loaded.slots)


def evaluate_labels(
    loaded: LoadedLabeller,
    split: LabelledSplit,
    *,
    max_tokens: int = MAX_TOKENS,
    batch_size: int | None = None,
) -> LabelEvaluation:
    """Tell the classes of every utterance of ``split`` and compare them with its own.

    Args:
        max_tokens: audio samples per batch, padding included; a longer utterance goes alone.
        batch_size: at most this many utterances per batch; None for no such limit.

    Raises:
        UserError: audio is missing or unreadable.
    """
    device = best_device()
    model = loaded.model.to(device)
    utterances, rate = split.utterances, sample_rate(loaded)
    told, seconds = in_batches(
        split.root,
        utterances,
        rate,
        lambda audio: classify(loaded, audio),
        max_tokens=max_tokens,
        batch_size=batch_size,
    )
    pairs = [(u.labels, found) for u, found in zip(utterances, told)]
    unheard = sum(found is None for _, found in pairs)
    if unheard:
        logger.warning(
            f"{unheard} of {len(pairs)} utterances of {split.name} are too short for a frame; each "
            "counts as wrong"
        )
    return LabelEvaluation(
        slots=_slot_accuracies(loaded, pairs),
        all_slots=Accuracy(sum(labels == found for labels, found in pairs), len(pairs)),
        parameters=count_parameters(model),
        density=loaded.density,
        audio_seconds=sum(u.frames for u in utterances) / rate,
        seconds=seconds,
        device=device.type,
    )


def _slot_accuracies(
    loaded: LoadedLabeller, pairs: Sequence[tuple[tuple[str, ...], tuple[str, ...] | None]]
) -> tuple[SlotAccuracy, ...]:
    """Of utterances' own classes and those that were told."""
    found = []
    for index, slot in enumerate(loaded.slots):
        number = {name: i for i, name in enumerate(slot.classes)}
        confusion = np.zeros((len(number), len(number)), dtype=np.int64)
        unheard = np.zeros(len(number), dtype=np.int64)
        for labels, told in pairs:
            if told is None:
                unheard[number[labels[index]]] += 1
            else:
                confusion[number[labels[index]], number[told[index]]] += 1
        found.append(SlotAccuracy(slot.name, slot.classes, confusion, unheard))
    return tuple(found)
