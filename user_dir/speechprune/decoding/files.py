"""What models make of audio files: their texts, or their classes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from speechprune.decoding.bank import BankModel
from speechprune.decoding.inference import best_device, naming, sample_rate, transcribe
from speechprune.decoding.labelling import classify
from speechprune.manifests.audio import resample
from speechprune.manifests.recording import decode_recording, open_recording
from speechprune.models.loading import LoadedLabeller, LoadedModel, LoadedRecogniser

logger = logging.getLogger(__name__)


class Transcript(NamedTuple):
    """What was heard in a file.

    Attributes:
        text: what was said, or classes parted by tabs.
        missing: what is missing of the file, going on from its name, or "".
        task: of a bank, if it was chosen among several; else "".
    """

    text: str
    missing: str
    task: str = ""


def transcribe_files(loaded: LoadedModel, paths: Sequence[Path]) -> list[Transcript]:
    """The text of each file, or its classes.

    Files may have any sample rate and number of channels.

    Warns of files whose samples are of a scale, or of channels, that no model can hear.

    Raises:
        UserError: a file is missing or is not readable audio; checked before any is transcribed.
    """
    loaded.model.to(best_device())
    return [
        Transcript(_told(loaded, samples), missing)
        for samples, missing in _recordings(paths, sample_rate(loaded))
    ]


def hear_files(bank: BankModel, paths: Sequence[Path]) -> list[Transcript]:
    """The text of each file by the task of a bank that is surest; else as `transcribe_files`.

    Raises:
        UserError: as that, or the bank has no task that writes texts.
    """
    rate = sample_rate(bank.use(bank.recognisers()[0]))
    found = []
    for samples, missing in _recordings(paths, rate):
        (heard,) = bank.hear([samples])
        found.append(Transcript(heard.text, missing, heard.task))
    return found


def _recordings(paths: Sequence[Path], rate: int) -> Iterator[tuple[np.ndarray, str]]:
    """Each file's samples at a rate, float32 (samples,), and what is missing of it."""
    for path in paths:
        with naming(path):
            open_recording(path).close()
    for path in tqdm(paths, unit="file", desc="transcribing", leave=False, disable=None):
        with naming(path):
            decoded = decode_recording(path)
        for oddity in decoded.oddities:
            logger.warning(f"{path} {oddity.message}")
        yield resample(decoded.samples, decoded.rate, rate), decoded.missing


def _told(loaded: LoadedModel, samples: np.ndarray) -> str:
    """What a model makes of a recording, float32 (samples,)."""
    if isinstance(loaded, LoadedLabeller):
        (classes,) = classify(loaded, [samples])
        return "\t".join(classes or ())
    assert isinstance(loaded, LoadedRecogniser)
    (text,) = transcribe(loaded, [samples])
    return text
