"""An exported CTC model in the place of a checkpoint's, for all that decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fairseq.data.dictionary import Dictionary
from omegaconf import OmegaConf
from torch import Tensor, nn

from speechprune.checkpoint.file import PathLike
from speechprune.decoding.bank import load_task
from speechprune.errors import UserError
from speechprune.exporting.onnx_session import OnnxSession, is_onnx
from speechprune.models.loading import LoadedModel, LoadedRecogniser


class OnnxCtc(nn.Module):
    """An exported model that is called as fairseq's CTC models are; onnxruntime runs it on the CPU.

    Attributes:
        parameter_count: of the model that was exported.
    """

    def __init__(self, session: OnnxSession) -> None:
        super().__init__()
        self.session = session
        self.parameter_count = session.description.parameters

    def forward(self, source: Tensor, padding_mask: Tensor) -> dict[str, Any]:
        """
        Args:
            source: audio, float32 (B, samples).
            padding_mask: bool (B, samples), True where padded.

        Returns:
            ``encoder_out``, scores float32 (T, B, symbols), and ``padding_mask``, bool (B, T).
        """
        lengths = (~padding_mask).sum(1)
        scores = torch.from_numpy(self.session.run(source.numpy(), lengths.numpy()))
        frames = torch.tensor([self.session.frame_count(length) for length in lengths.tolist()])
        padding = torch.arange(scores.shape[1]) >= frames[:, None]
        return {"encoder_out": scores.transpose(0, 1), "padding_mask": padding}

    def get_logits(self, output: dict[str, Any]) -> Tensor:
        """Scores, (T, B, symbols); those of padding are the blank's."""
        scores: Tensor = output["encoder_out"].clone()
        silence = torch.full((scores.shape[2],), float("-inf"))
        silence[0] = 0.0
        scores[output["padding_mask"].T] = silence
        return scores


class OnnxRecogniser(LoadedRecogniser):
    """As a CTC model of a checkpoint, of an ONNX file."""

    def frame_count(self, samples: int) -> int:
        return int(self.model.session.frame_count(samples))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def load_onnx(path: PathLike, threads: int | None = None) -> OnnxRecogniser:
    """The model in an ONNX file.

    Args:
        threads: as of `OnnxSession`.

    Raises:
        UserError: as `OnnxSession`.
    """
    session = OnnxSession(path, threads)
    told = session.description
    dictionary = Dictionary()
    own = dictionary.nspecial
    if list(told.symbols[:own]) != dictionary.symbols:
        raise UserError(f"{path} is damaged: its first symbols are not those of fairseq")
    for symbol in told.symbols[own:]:
        dictionary.add_symbol(symbol)
    task = {
        "sample_rate": told.sample_rate,
        "normalize": told.normalize,
        "labels": told.labels,
    }
    nowhere: Any = None  # instead of a task of fairseq's
    cfg = OmegaConf.create({"task": task})
    noted = {**told.provenance, "density": told.density}
    return OnnxRecogniser(Path(path), OnnxCtc(session).eval(), nowhere, cfg, noted, dictionary)


def load_any(path: PathLike, task: str | None, data: PathLike | None = None) -> LoadedModel:
    """The model in a checkpoint, a bank or an ONNX file.

    Args:
        task, data: as for `load_task`.

    Raises:
        UserError: as `load_task` and `load_onnx`.
    """
    if not is_onnx(path):
        return load_task(path, task, data)
    if task is not None:
        raise UserError(f"{path} is an ONNX file and not a bank: leave out --task {task}")
    return load_onnx(path)
