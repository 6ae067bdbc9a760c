"""The speech encoder of any checkpoint, pretrained or finetuned."""

from __future__ import annotations

import torch
from torch import nn

from speechprune.backbones import BACKBONES
from speechprune.checkpoint.file import PathLike, read
from speechprune.checkpoint.finetuned import is_finetuned, load_finetuned
from speechprune.checkpoint.pretrained import model_name


def load_encoder(path: PathLike) -> nn.Module:
    """The encoder in the checkpoint at ``path``, in evaluation mode, on the CPU, without gradient.

    That of a finetuned checkpoint with masks has them on.

    Raises:
        UserError: the file cannot be read, or holds no encoder of a registered family.
    """
    if is_finetuned(read(path, mmap=True)):
        model = load_finetuned(path).model
        encoder: nn.Module = model.w2v_encoder.w2v_model  # type: ignore[assignment, union-attr]
        return encoder
    encoder = BACKBONES.build(model_name(path)).load(path)
    return encoder.requires_grad_(False)


def initialised_anew(encoder: nn.Module, seed: int) -> nn.Module:
    """An encoder of the same settings with random weights, as pretraining would start from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(encoder)(encoder.cfg)
    fresh.remove_pretraining_modules()
    return fresh.eval().requires_grad_(False)
