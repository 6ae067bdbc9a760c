"""Nano models as ONNX files: of each family, masked, slim and without a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import rewrite
from mask_files import MASKED
from nano import write_corpus, write_data2vec, write_finetuned, write_hubert, write_wav2vec2
from slim_files import with_idle_units

from speechprune.exporting.onnx_export import Exported, export_onnx
from speechprune.models.loading import LoadedRecogniser
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.rewriting.slimming import apply
from speechprune.state_names import HEAD

LARGE = {"layer_norm_first": True, "extractor_mode": "layer_norm", "normalize": True}


@dataclass(frozen=True)
class Pair:
    """A checkpoint, and what was written of it."""

    checkpoint: Path
    written: list[Exported]

    @property
    def path(self) -> Path:
        """The file in float32, or the only one."""
        return self.written[0].path


class Workshop:
    """Writes models and their ONNX files, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_corpus(folder / "data", train=1, valid=3)
        self._made: dict[str, Pair] = {}

    def pair(self, name: str) -> Pair:
        """One of PAIRS."""
        if name not in self._made:
            self._made[name] = PAIRS[name](self)
        return self._made[name]

    def finetuned(self, name: str, pretrained: Path, model: dict[str, Any] | None = None) -> Path:
        return write_finetuned(self.folder / f"{name}.pt", pretrained, self.data, model=model)

    def export(self, checkpoint: Path, **options: Any) -> Pair:
        suffix = "" if "layout" in options else ".onnx"
        out = self.folder / f"{checkpoint.stem}-exported{suffix}"
        return Pair(checkpoint, export_onnx(checkpoint, out, **options))


def masked(shop: Workshop) -> Pair:
    """Of wav2vec 2.0 base's kind; everything that can have a mask has one."""
    pretrained = write_wav2vec2(shop.folder / "base.pt", layers=1)
    settings = {**MASKED, "fix_attn": False, "no_prune_extractor": False, "no_prune_proj": False}
    return shop.export(shop.finetuned("masked", pretrained, settings))


def slim(shop: Workshop) -> Pair:
    """Of XLS-R's kind, with other heads and channels in each layer, for onnx-asr."""
    pretrained = with_idle_units(write_wav2vec2(shop.folder / "large.pt", **LARGE))
    apply(pretrained, shop.folder / "slim.pt")
    checkpoint = shop.finetuned("slim_ctc", shop.folder / "slim.pt")
    return shop.export(checkpoint, layout="onnx-asr", int8=True)


def dropped(shop: Workshop) -> Pair:
    """data2vec without its first layer; it normalises."""
    whole = shop.finetuned("whole", write_data2vec(shop.folder / "data2vec.pt"))
    drop_layers(whole, [0], shop.folder / "dropped.pt")
    return shop.export(shop.folder / "dropped.pt", normalize_inside=True)


def hubert(shop: Workshop) -> Pair:
    """With a batch norm before its positions, which hears padding unless it is silenced."""
    written = write_hubert(shop.folder / "hubert.pt", conv_pos_batch_norm=True, layers=1)
    return shop.export(shop.finetuned("hubert_ctc", written))


def sherpa(shop: Workshop) -> Pair:
    """Of XLS-R's kind, for sherpa-onnx."""
    pretrained = write_wav2vec2(shop.folder / "pretrained.pt", layers=1, **LARGE)
    checkpoint = shop.finetuned("sherpa", pretrained)

    def speak(state: dict[str, Any]) -> None:
        """As every trained model, it never writes what stands for padding or for an end."""
        state["model"][f"{HEAD}bias"][1:4] = -20.0

    return shop.export(rewrite(checkpoint, speak), layout="sherpa-onnx")


def sherpa_base(shop: Workshop) -> Pair:
    """Of base's kind, whose norm over time has no lengths to go by, for sherpa-onnx."""
    pretrained = write_wav2vec2(shop.folder / "whole_base.pt", layers=1)
    return shop.export(shop.finetuned("sherpa_base", pretrained), layout="sherpa-onnx")


PAIRS: dict[str, Callable[[Workshop], Pair]] = {
    each.__name__: each for each in (masked, slim, dropped, hubert, sherpa, sherpa_base)
}


def noise(*sizes: int, seed: int = 0) -> list[np.ndarray]:
    """Recordings of so many samples."""
    generator = np.random.default_rng(seed)
    return [(0.1 * generator.standard_normal(n) + 0.02).astype(np.float32) for n in sizes]


def alone(loaded: LoadedRecogniser, samples: np.ndarray) -> torch.Tensor:
    """What a checkpoint's model makes of a recording that nothing pads: (T, symbols)."""
    source = torch.from_numpy(samples)
    if loaded.cfg.task.normalize:
        source = torch.nn.functional.layer_norm(source, source.shape)
    with torch.inference_mode():
        output = loaded.model(source=source[None], padding_mask=None)
        logits: torch.Tensor = loaded.model.get_logits(output)[:, 0]
    return logits
