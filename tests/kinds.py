"""Every kind of checkpoint that a nano model is kept in, pretrained and finetuned."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from checkpoints import MASKS, rewrite
from nano import (
    rewrite_as_of_2020,
    write_corpus,
    write_data2vec,
    write_finetuned,
    write_hubert,
    write_wav2vec2,
)
from omegaconf import OmegaConf

from speechprune.checkpoint import read
from speechprune.masking.mask_set import MaskSet
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.rewriting.folding import fold
from speechprune.rewriting.masks import apply_masks

LAYERS = 4

FAMILIES = {
    "base": write_wav2vec2,
    "xlsr": partial(
        write_wav2vec2, layer_norm_first=True, extractor_mode="layer_norm", normalize=True
    ),
    "data2vec": write_data2vec,
    "hubert": write_hubert,
}

#: Family, and how its file says what it is: as today, as xlsr_53_56k.pt, or as in 2020.
PRETRAINED = [
    (family, layout)
    for family in FAMILIES
    for layout in ("cfg", "omegaconf", "2020")
    if layout != "2020" or family in ("base", "xlsr")
]

FINETUNED = (
    "plain",
    "plain_2020",
    "st",
    "st_2020",
    "s3router",
    "parp",
    "masked",
    "folded",
    "pruned",
)

PARP = {
    "_name": "wav2vec_ctc_parp",
    "sparsity": 0.5,
    "trainable_proj": True,
    "max_update": 100,
    "use_bmuf": False,
    "store_ema": False,
    "pipeline_model_parallel": False,
    "zero_sharding": "none",
}


def write_pretrained(path: Path, family: str, layout: str = "cfg") -> Path:
    """Layers of different size, which a ranking over all of them tells apart."""
    FAMILIES[family](path, layers=LAYERS)
    rewrite(path, lambda state: _scale_layers(state["model"]))
    if layout == "2020":
        return rewrite_as_of_2020(path)
    if layout == "omegaconf":
        rewrite(path, lambda state: state.update(cfg=OmegaConf.create(state["cfg"])))
    return path


def _scale_layers(weights: dict[str, Any]) -> None:
    for key, tensor in weights.items():
        for layer in range(LAYERS):
            if key.startswith(f"encoder.layers.{layer}.") and tensor.dim() == 2:
                tensor.mul_(1.0 + layer)


_MODELS = {
    "plain": {},
    "parp": PARP,
    "folded": PARP,
    "masked": PARP,
    "pruned": {"_name": "wav2vec_ctc_pruned"},
}


class Finetuned:
    """Finetuned checkpoints below one folder, by kind, each written once and not to be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def data(self) -> Path:
        return write_corpus(self.folder / "data", train=1, valid=1)

    @cached_property
    def pretrained(self) -> Path:
        return write_pretrained(self.folder / "pretrained.pt", "base")

    def __call__(self, kind: str) -> Path:
        path = self.folder / kind / "finetuned.pt"
        if not path.exists():
            path.parent.mkdir()
            _write_kind(path, kind, self.pretrained, self.data)
        return path


def _write_kind(path: Path, kind: str, pretrained: Path, data: Path) -> Path:
    if kind == "plain_2020":
        return rewrite_as_of_2020(write_finetuned(path, pretrained, data))
    if kind == "st_2020":
        return rewrite_as_of_2020(write_finetuned(path, pretrained, data, model=MASKS))
    model = _MODELS.get(kind, MASKS)
    write_finetuned(path, pretrained, data, model=model)
    if kind == "s3router":
        rewrite(path, lambda state: _drop_bits(state["model"]))
    if kind == "folded":
        fold(path.rename(path.with_name("unfolded.pt")), path)
        (path.with_name("unfolded.pt")).unlink()
    if kind == "masked":
        before = path.rename(path.with_name("unmasked.pt"))
        apply_masks(before, uneven_masks(before, [0.9, 0.2, 0.6, 0.4]), path)
        before.unlink()
    return path


def _drop_bits(weights: dict[str, Any]) -> None:
    """As S3-Router saves it: masks are chosen from scores."""
    for key in [key for key in weights if key.endswith("_mask")]:
        del weights[key]


def uneven_masks(path: Path, densities: list[float], outside: float = 0.5) -> MaskSet:
    """Drawn masks for the sites of a checkpoint, of one density for each layer and one outside."""
    generator = torch.Generator().manual_seed(0)
    masks = {}
    for name, mask in read_checkpoint_masks(path).items():
        parts = name.split(".")
        density = densities[int(parts[2])] if parts[:2] == ["encoder", "layers"] else outside
        masks[name] = torch.rand(mask.shape, generator=generator) < density
    return MaskSet(masks, {})


def model_settings(path: Path) -> dict[str, Any]:
    """The settings of the model in a checkpoint of any layout."""
    state = read(path)
    return state["cfg"]["model"] if state.get("cfg") else vars(state["args"])


def encoder_settings(path: Path) -> dict[str, Any]:
    """The settings of its encoder."""
    settings = model_settings(path)
    pretrained = settings.get("w2v_args")
    if pretrained is None:
        return settings
    return pretrained["model"] if isinstance(pretrained, dict) else vars(pretrained)
