"""Nano checkpoints of every family that Hugging Face has, and folders exported from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import nano
import pytest
import torch
from checkpoints import rewrite
from nano import write_corpus, write_data2vec, write_finetuned, write_hubert, write_wav2vec2
from torch import Tensor

from speechprune.exporting.huggingface_export import export_huggingface
from speechprune.state_names import HEAD

#: The shape of XLS-R and of the large HuBERT.
_LARGE: dict[str, Any] = {
    "layer_norm_first": True,
    "extractor_mode": "layer_norm",
    "normalize": True,
}


def _write_narrow(path: Path) -> Path:
    """A wav2vec 2.0 whose convolutions are as wide as its layers, so that nothing projects."""
    narrow = nano.CONV_FEATURE_LAYERS.replace("(16,", "(32,")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nano, "CONV_FEATURE_LAYERS", narrow)
        return write_wav2vec2(path)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "base": write_wav2vec2,
    "narrow": _write_narrow,
    "xlsr": partial(write_wav2vec2, **_LARGE),
    "data2vec": write_data2vec,
    "hubert": write_hubert,
    "hubert_large": partial(write_hubert, **_LARGE),
    "hubert_batch_norm": partial(write_hubert, conv_pos_batch_norm=True),
}
#: Those whose utterances are the same in a padded batch of both libraries as alone.
PAD_ALIKE = ("xlsr", "hubert_large")


class Exports:
    """Checkpoints and folders below one folder, each written once and not to be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def data(self) -> Path:
        return write_corpus(self.folder / "data", train=1, valid=6)

    def pretrained(self, family: str) -> Path:
        path = self.folder / f"{family}.pt"
        return path if path.exists() else FAMILIES[family](path)

    def ctc(self, family: str, **model: Any) -> Path:
        """A CTC model that writes letters, of one symbol or another."""
        name = "_".join([family, "ctc", *map(str, model.values())])
        path = self.folder / f"{name}.pt"
        if not path.exists():
            write_finetuned(path, self.pretrained(family), self.data, model=model, seed=3)
            rewrite(path, make_talkative)
        return path

    def folder_of(self, path: Path) -> Path:
        """What is exported from a checkpoint."""
        folder = self.folder / f"{path.stem}_folder"
        if not folder.exists():
            # The heads of `ctc` are 50 times as loud as others, and so is their rounding.
            found = export_huggingface(path, folder, tolerance=5e-3)
            assert found.folder == folder
        return folder


def make_talkative(state: dict[str, Any]) -> None:
    """Let the head choose among letters, by what it hears: large weights, and no marks."""
    state["model"][f"{HEAD}weight"] *= 50
    state["model"][f"{HEAD}bias"][1:4] = -1000.0


def transformers_model(folder: Path) -> Any:
    """The model in a folder, of which no tensor may be missing or unknown."""
    import transformers

    (kind,) = json.loads((folder / "config.json").read_text())["architectures"]
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def audio(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, generator=generator) for length in lengths]


def outputs(model: Any, source: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Logits, or what the encoder gives, of (B, samples)."""
    with torch.inference_mode():
        found = model(source, attention_mask=attention_mask)
    return found.logits if "logits" in found else found.last_hidden_state
