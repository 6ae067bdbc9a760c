"""What a model of any kind makes of recordings, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.inference import batches, transcribe
from speechprune.decoding.labelling import classify
from speechprune.models.loading import LoadedLabeller, LoadedModel, as_recogniser


def texts_of(loaded: LoadedModel, audio: Sequence[np.ndarray]) -> list[str]:
    """The text of each recording, or its classes, parted by tabs; "" where it is too short.

    Args:
        audio: float32 recordings of shape (samples,) at the model's sample rate.

    Raises:
        UserError: the model hears no speech.
    """
    texts = [""] * len(audio)
    for batch in batches([len(samples) for samples in audio], MAX_TOKENS):
        for index, text in zip(batch, _of_batch(loaded, [audio[index] for index in batch])):
            texts[index] = text
    return texts


def _of_batch(loaded: LoadedModel, audio: Sequence[np.ndarray]) -> list[str]:
    if isinstance(loaded, LoadedLabeller):
        return ["\t".join(classes or ()) for classes in classify(loaded, audio)]
    return transcribe(as_recogniser(loaded), audio)
