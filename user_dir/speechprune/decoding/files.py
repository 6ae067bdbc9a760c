"""What models make of audio files: their texts, or their classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from speechprune.decoding.inference import best_device, naming, sample_rate, transcribe
from speechprune.decoding.labelling import classify
from speechprune.manifests.audio import resample
from speechprune.manifests.recording import decode_recording, open_recording
from speechprune.models.loading import LoadedLabeller, LoadedModel, LoadedRecogniser

logger = logging.getLogger(__name__)


class Transcript(NamedTuple):
    """What was heard in a file, and what is missing of the file, going on from its name, or ""."""

    text: str
    missing: str


def transcribe_files(loaded: LoadedModel, paths: Sequence[Path]) -> list[Transcript]:
    """The text of each file, or its classes parted by tabs.

    Files may have any sample rate and number of channels.

    Warns of files whose samples are of a scale, or of channels, that no model can hear.

    Raises:
        UserError: a file is missing or is not readable audio; checked before any is transcribed.
    """
    for path in paths:
        with naming(path):
            open_recording(path).close()
    loaded.model.to(best_device())
    rate = sample_rate(loaded)
    transcripts = []
    for path in tqdm(paths, unit="file", desc="transcribing", leave=False, disable=None):
        with naming(path):
            decoded = decode_recording(path)
        for oddity in decoded.oddities:
            logger.warning(f"{path} {oddity.message}")
        text = _told(loaded, resample(decoded.samples, decoded.rate, rate))
        transcripts.append(Transcript(text, decoded.missing))
    return transcripts


def _told(loaded: LoadedModel, samples: np.ndarray) -> str:
    """What a model makes of a recording, float32 (samples,)."""
    if isinstance(loaded, LoadedLabeller):
        (classes,) = classify(loaded, [samples])
        return "\t".join(classes or ())
    assert isinstance(loaded, LoadedRecogniser)
    (text,) = transcribe(loaded, [samples])
    return text
