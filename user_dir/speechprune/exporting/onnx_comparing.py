"""What an ONNX file makes of some audio, beside what its source makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from speechprune.decoding.inference import padded, padded_batch, sample_rate
from speechprune.exporting.onnx_session import OnnxSession
from speechprune.models.loading import LoadedRecogniser

#: Samples of each recording of each batch, in shares of a second and more: odd and even.
_SECONDS = ((1.0,), (3.0, 2.0, 0.25))
_SEED = 0


@dataclass(frozen=True)
class Comparison:
    """How a file differs from its source.

    Attributes:
        difference: the largest absolute one of any score; infinity if one is no number.
        agreement: the share of frames with the same best symbol.
        frames: that were compared.
    """

    difference: float
    agreement: float
    frames: int


def some_audio(rate: int) -> list[list[np.ndarray]]:
    """Batches of recordings of odd and of even lengths: noise that swells, the same each time.

    Args:
        rate: in Hz.

    Returns:
        float32 (samples,) for each recording.
    """
    generator = np.random.default_rng(_SEED)
    batches = []
    for odd in (0, 1):
        for batch in _SECONDS:
            sizes = [2 * round(seconds * rate / 2) + odd for seconds in batch]
            batches.append([_noise(generator, size) for size in sizes])
    return batches


def _noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    loudness = 0.05 + 0.1 * np.sin(np.linspace(0.0, 6.0, samples)) ** 2
    return (loudness * generator.standard_normal(samples)).astype(np.float32)


@torch.inference_mode()
def scores_of(loaded: LoadedRecogniser) -> list[np.ndarray]:
    """What a model makes of `some_audio`: (frames, symbols) of each recording, without padding."""
    found = []
    for batch in some_audio(sample_rate(loaded)):
        output = loaded.model(**padded(loaded, batch))
        logits = loaded.model.get_logits(output).transpose(0, 1)
        for scores, audio in zip(logits, batch):
            found.append(scores[: loaded.frame_count(len(audio))].float().cpu().numpy())
    return found


def compared(session: OnnxSession, expected: Sequence[np.ndarray]) -> Comparison:
    """How a file differs from its source.

    Args:
        expected: of the source, as `scores_of` gives it.
    """
    told = session.description
    # Some callers normalise for all models; here it is as in training.
    normalize = told.trained_normalized and told.normalize
    difference, same, frames = 0.0, 0, 0
    places = iter(expected)
    for batch in some_audio(told.sample_rate):
        given = padded_batch(batch, normalize=normalize, device=torch.device("cpu"))
        lengths = np.array([len(audio) for audio in batch])
        for found, scores in zip(session.run(given["source"].numpy(), lengths), places):
            if told.names.log_probabilities:
                scores = torch.from_numpy(scores).log_softmax(-1).numpy()
            found = found[: len(scores)]
            largest = float(np.abs(found - scores).max())
            difference = max(difference, largest if np.isfinite(largest) else float("inf"))
            same += int((found.argmax(-1) == scores.argmax(-1)).sum())
            frames += len(scores)
    return Comparison(difference, same / frames, frames)
