"""What models of each library make of recordings, in the form in which they are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechprune.backbones import find_backbone
from speechprune.checkpoint.file import PathLike, read
from speechprune.checkpoint.finetuned import listening
from speechprune.decoding.inference import padded, padded_batch
from speechprune.exporting.comparing import Hear
from speechprune.exporting.onnx_session import OnnxSession
from speechprune.models.loading import (
    LoadedLabeller,
    LoadedModel,
    load_finetuned,
    load_pretrained,
)
from speechprune.models.sites import encoder_of_model
from speechprune.state_names import is_finetuned

_CPU = torch.device("cpu")


def fairseq_hears(path: PathLike) -> Hear:
    """The model in a checkpoint, with its masks on: logits of a CTC model, scores of one for labels
    or, of a pretrained one, what its encoder gives; raises UserError as the loaders."""
    if not is_finetuned(read(path, mmap=True)["model"]):
        return _encoder_hears(path)
    loaded = load_finetuned(path)
    return _labeller_hears(loaded) if isinstance(loaded, LoadedLabeller) else model_hears(loaded)


def model_hears(loaded: LoadedModel) -> Hear:
    """A CTC model: logits."""
    encoder = encoder_of_model(loaded.model)

    def hear(audio: Sequence[np.ndarray]) -> Sequence[Tensor]:
        with torch.inference_mode():
            output = loaded.model(**padded(loaded, audio))
        return _own_frames(encoder, output["encoder_out"].transpose(0, 1), audio)

    return hear


def _labeller_hears(loaded: LoadedLabeller) -> Hear:
    def hear(audio: Sequence[np.ndarray]) -> Sequence[Tensor]:
        with torch.inference_mode():
            return list(loaded.model(**padded(loaded, audio))["logits"])

    return hear


def _encoder_hears(path: PathLike) -> Hear:
    encoder = load_pretrained(path).float().requires_grad_(False)
    normalize, _ = listening(path)

    def hear(audio: Sequence[np.ndarray]) -> Sequence[Tensor]:
        batch = padded_batch(audio, normalize=normalize, device=_CPU)
        with torch.inference_mode():
            features, _ = find_backbone(encoder).features(
                encoder, batch["source"], batch["padding_mask"]
            )
        return _own_frames(encoder, features, audio)

    return hear


def _own_frames(
    encoder: torch.nn.Module, outputs: Tensor, audio: Sequence[np.ndarray]
) -> list[Tensor]:
    """The frames of (B, T, ...) that are of each recording."""
    family = find_backbone(encoder)
    return [row[: family.frame_count(encoder, len(a))] for row, a in zip(outputs, audio)]


def folder_hears(folder: Path, kind: str) -> Hear:
    """The model in a folder, as transformers loads it in single precision.

    Args:
        kind: the class of transformers for it.
    """
    import transformers

    with _quiet():
        model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    return transformers_hears(model, extractor)


def transformers_hears(model: Any, extractor: Any) -> Hear:
    """A model of transformers, with the feature extractor that prepares audio for it."""
    model.eval()

    def hear(audio: Sequence[np.ndarray]) -> Sequence[Tensor]:
        rate = extractor.sampling_rate
        batch = extractor(list(audio), sampling_rate=rate, padding=True, return_tensors="pt")
        with torch.inference_mode():
            output = model(**batch)
        found = output.logits if "logits" in output else output.last_hidden_state
        if found.dim() == 2:
            return list(found)
        lengths = torch.tensor([len(samples) for samples in audio])
        frames = model._get_feat_extract_output_lengths(lengths).tolist()
        return [row[:own] for row, own in zip(found, frames)]

    return hear


def onnx_hears(session: OnnxSession) -> Hear:
    """The model in an ONNX file, whose recordings are normalised as in its training."""
    told = session.description
    normalize = told.trained_normalized and told.normalize

    def hear(audio: Sequence[np.ndarray]) -> Sequence[Tensor]:
        source = padded_batch(audio, normalize=normalize, device=_CPU)["source"]
        scores = session.run(source.numpy(), np.array([len(each) for each in audio]))
        frames = [session.frame_count(len(each)) for each in audio]
        return [torch.from_numpy(row[:own]) for row, own in zip(scores, frames)]

    return hear


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, transformers shows no progress and tells errors only."""
    from transformers.utils import logging

    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()
