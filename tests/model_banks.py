"""Banks of nano models: what goes into them, and recordings for them to hear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import rewrite
from labelled import write_tones
from mask_files import MASKED
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.models.loading import LoadedModel
from speechprune.rewriting.banking import create
from speechprune.state_names import HEAD, STATE_WEIGHTS

#: Settings that come from other groups in training.
CONTEXT = {
    **{"max_update": 100, "use_bmuf": False, "store_ema": False, "zero_sharding": "none"},
    "pipeline_model_parallel": False,
}
FROZEN = {
    **{"_name": "wav2vec_ctc_policy", "train_weights": False, "prune_biases": False},
    **{"sparsity": 0.4, "start_sparsity": 0.4, "prune_every": 1, "trainable_proj": True},
    **CONTEXT,
}
#: Settings of models that a bank takes.
TAKEN: dict[str, dict[str, Any]] = {
    "weights": {**MASKED, "fix_attn": False},
    "feed-forward": MASKED,
    "rows": {**MASKED, "linear_st_op": "linear_st_outstr"},
    "columns": {**MASKED, "linear_st_op": "linear_st_instr"},
    "heads": {**MASKED, "fix_attn": False, "linear_st_op": "linear_st_head"},
    "head": {**MASKED, "no_prune_proj": False},
    "rates": {**MASKED, "fix_attn": False, "fc_attn_prune_rate": [0.3, 0.6]},
    "extractor": {**MASKED, "no_prune_extractor": False},
    "policy": {**FROZEN, "policy": "s3router"},
    "random": {**FROZEN, "policy": "random"},
    "biases": {**FROZEN, "policy": "random", "prune_biases": True},
}


class Lab:
    """A pretrained model, the bank made of it, and checkpoints on it."""

    def __init__(self, folder: Path, write: Callable[[Path], Path] = write_wav2vec2) -> None:
        self.folder = folder
        self.data = write_corpus(folder / "data", train=1, valid=1)
        self.pretrained = write(folder / "pretrained.pt")
        self.bank = folder / "bank.safetensors"
        create(self.pretrained, self.bank)

    def finetuned(self, name: str, model: dict[str, Any], seed: int = 0) -> Path:
        path = self.folder / f"{name}.pt"
        return write_finetuned(path, self.pretrained, self.data, model=model, seed=seed)

    def labelled(self, name: str, seed: int = 0) -> Path:
        """Of a model that tells pitch and length, whose head hears some states more than others."""
        data = self.folder / "tones"
        if not data.exists():
            write_tones(data, train=6, valid=6)
        path = self.folder / f"{name}.pt"
        model = {"_name": "wav2vec_labels_st", "prune_rate": 0.6, "trainable_proj": True}
        task = {"_name": "audio_labels", "seed": 1, "train_subset": "train"}
        write_finetuned(path, self.pretrained, data, model=model, task=task, seed=seed)

        def weigh(state: dict[str, Any]) -> None:
            weights = state["model"][STATE_WEIGHTS]
            weights.copy_(torch.linspace(-1.0, 2.0, len(weights)))

        return rewrite(path, weigh)


def make_sure(path: Path, factor: float) -> Path:
    """Scale the head of a checkpoint: its best symbols stay, and have other probabilities."""

    def scale(state: dict[str, Any]) -> None:
        for key in (f"{HEAD}weight", f"{HEAD}bias"):
            state["model"][key] *= factor

    return rewrite(path, scale)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """A recording."""
    return np.random.default_rng(seed).normal(0, 0.3, samples).astype(np.float32)


def outputs(loaded: LoadedModel, samples: int = 6000) -> torch.Tensor:
    """What a model makes of two recordings, one of them shorter."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(2, samples, generator=generator)
    padding = torch.zeros(2, samples, dtype=torch.bool)
    padding[1, samples // 2 :] = True
    device = next(loaded.model.parameters()).device
    with torch.inference_mode():
        found = loaded.model(source=source.to(device), padding_mask=padding.to(device))
    return found["logits"] if "logits" in found else found["encoder_out"]
